#version 460
#extension GL_GOOGLE_include_directive : require
// add: c = a + b.
//
// Reference: op add.
// Bindings:
//   0 read  a f32[COUNT]
//   1 read  b f32[COUNT]
//   2 write c f32[COUNT] over a or b
layout(constant_id = 0) const uint COUNT = 1;
#include "binary.glsl"

vec4 combine(vec4 a, vec4 b) {
  return a + b;
}
