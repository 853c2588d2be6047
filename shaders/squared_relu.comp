#version 460
#extension GL_GOOGLE_include_directive : require
// squared_relu: y = max(x, 0)^2, NaN for NaN.
//
// Reference: op squared_relu.
// Bindings:
//   0 read  x f32[COUNT]
//   1 write y f32[COUNT] over x
layout(constant_id = 0) const uint COUNT = 1;
#include "unary.glsl"
#include "activations.glsl"

vec4 map(vec4 x) {
  return squared_relu(x);
}
