#version 460
#extension GL_GOOGLE_include_directive : require
// silu_slope: y = s (1 + x (1 - s)), with s = 1 / (1 + exp(-x)).
//
// Reference: op silu_slope.
// Bindings:
//   0 read  x f32[COUNT]
//   1 write y f32[COUNT] over x
layout(constant_id = 0) const uint COUNT = 1;
#include "unary.glsl"
#include "activations.glsl"

vec4 map(vec4 x) {
  return silu_slope(x);
}
