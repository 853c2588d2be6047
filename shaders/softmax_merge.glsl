// What is known of a softmax over some columns: the largest logit, the sum of exp(z - largest), and the
// logit that is looked for, or zero; and how two of these become one.

const vec3 NOTHING = vec3(-1e30, 0, 0);

vec3 merge(vec3 a, vec3 b) {
  const float top = max(a.x, b.x);
  return vec3(top, a.y * exp(a.x - top) + b.y * exp(b.x - top), a.z + b.z);
}
