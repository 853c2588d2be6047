#version 460
#extension GL_GOOGLE_include_directive : require
// copy: y = x, in words of any meaning.
//
// Bindings:
//   0 read  x u32[COUNT]
//   1 write y u32[COUNT]
layout(constant_id = 0) const uint COUNT = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer X { uint x[]; };
layout(binding = 0, std430) readonly buffer X4 { uvec4 x4[]; };
layout(binding = 1, std430) writeonly buffer Y { uint y[]; };
layout(binding = 1, std430) writeonly buffer Y4 { uvec4 y4[]; };
#include "index.glsl"

void main() {
  const uint i = item();
  if (COUNT % 4 == 0) {
    if (i < COUNT / 4) {
      y4[i] = x4[i];
    }
  } else if (i < COUNT) {
    y[i] = x[i];
  }
}
