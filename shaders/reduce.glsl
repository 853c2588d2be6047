// Sums and maxima over a workgroup, the same in every invocation. Each is a chain of two barriers,
// so all invocations call them together. On one device the order of additions never changes.
//
// The including file declares a workgroup of whole subgroups first, and
// GL_KHR_shader_subgroup_arithmetic.

shared vec2 subgroup_sums[gl_WorkGroupSize.x];
shared uint subgroup_tops[gl_WorkGroupSize.x];

vec2 workgroup_sum(vec2 x) {
  const vec2 sum = subgroupAdd(x);
  barrier();
  if (subgroupElect()) {
    subgroup_sums[gl_SubgroupID] = sum;
  }
  barrier();
  vec2 total = vec2(0);
  for (uint i = 0; i < gl_NumSubgroups; i++) {
    total += subgroup_sums[i];
  }
  return total;
}

float workgroup_sum(float x) {
  return workgroup_sum(vec2(x, 0)).x;
}

uint workgroup_max(uint x) {
  const uint top = subgroupMax(x);
  barrier();
  if (subgroupElect()) {
    subgroup_tops[gl_SubgroupID] = top;
  }
  barrier();
  uint highest = 0;
  for (uint i = 0; i < gl_NumSubgroups; i++) {
    highest = max(highest, subgroup_tops[i]);
  }
  return highest;
}
