// The activations and their slopes; each keeps NaN. `precise`: they give the same bits wherever they
// are inlined.
#include "magnitude.glsl"
#include "sigmoid.glsl"

vec4 relu(vec4 x) {
  return positive_part(x);
}

vec4 squared_relu(vec4 x) {
  const vec4 positive = positive_part(x);
  return positive * positive;
}

vec4 silu(vec4 x) {
  precise const vec4 y = x * sigmoid(x);
  return y;
}

vec4 silu_slope(vec4 x) {
  const vec4 s = sigmoid(x);
  precise const vec4 y = s * (1 + x * (1 - s));
  return y;
}
