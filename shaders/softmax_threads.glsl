// softmax_merge.glsl over the THREADS invocations of a workgroup, which call it together: those whose numbers
// leave the same rest by TOGETHER have one row, and get what all of them found.

shared vec3 found[THREADS];

vec3 merge_threads(vec3 own) {
  const uint thread = gl_LocalInvocationIndex;
  found[thread] = own;
  barrier();
  for (uint reach = THREADS / 2; reach >= TOGETHER; reach /= 2) {
    if (thread < reach) {
      found[thread] = merge(found[thread], found[thread + reach]);
    }
    barrier();
  }
  return found[thread % TOGETHER];
}
