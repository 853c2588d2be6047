#version 460
#extension GL_GOOGLE_include_directive : require
// add_ids: y = x + BY, whole numbers.
//
// Reference: op add_ids.
// Bindings:
//   0 read  x i32[COUNT]
//   1 write y i32[COUNT]
layout(constant_id = 0) const uint COUNT = 1;
layout(constant_id = 1) const int BY = 0;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer X { int x[]; };
layout(binding = 1, std430) writeonly buffer Y { int y[]; };
#include "index.glsl"

void main() {
  const uint i = item();
  if (i < COUNT) {
    y[i] = x[i] + BY;
  }
}
