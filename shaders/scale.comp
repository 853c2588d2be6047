#version 460
#extension GL_GOOGLE_include_directive : require
// scale: y = FACTOR x.
//
// Reference: op scale.
// Bindings:
//   0 read  x f32[COUNT]
//   1 write y f32[COUNT] over x
layout(constant_id = 0) const uint COUNT = 1;
layout(constant_id = 1) const float FACTOR = 1.0;
#include "unary.glsl"

vec4 map(vec4 x) {
  return FACTOR * x;
}
