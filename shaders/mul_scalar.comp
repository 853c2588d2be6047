#version 460
#extension GL_GOOGLE_include_directive : require
// mul_scalar: y = s x with one number s.
//
// Reference: op mul_scalar.
// Bindings:
//   0 read  x f32[COUNT]
//   1 write y f32[COUNT] over x
//   2 read  s f32[]
layout(constant_id = 0) const uint COUNT = 1;
layout(binding = 2, std430) readonly buffer S { float s; };
#include "unary.glsl"

vec4 map(vec4 x) {
  return s * x;
}
