#version 460
#extension GL_GOOGLE_include_directive : require
// fill: y = VALUE everywhere.
//
// Reference: op full_like.
// Bindings:
//   0 write y f32[COUNT]
layout(constant_id = 0) const uint COUNT = 1;
layout(constant_id = 1) const float VALUE = 0.0;
layout(local_size_x = 256) in;
layout(binding = 0, std430) writeonly buffer Y { float y[]; };
#include "index.glsl"

void main() {
  const uint i = item();
  if (i < COUNT) {
    y[i] = VALUE;
  }
}
