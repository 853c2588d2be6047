// 1 / (1 + exp(-x)), by exponentials that do not overflow.
vec4 sigmoid(vec4 x) {
  const vec4 small = exp(-abs(x));
  return mix(vec4(1), small, lessThan(x, vec4(0))) / (1 + small);
}
