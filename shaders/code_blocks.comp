#version 460
#extension GL_GOOGLE_include_directive : require
// code_blocks: the codes of x in blocks (blocks.glsl); rows from ROWS on are zero.
//
// Reference: the codes of op quantize. INNER is a multiple of 16, HIGH of 8.
// Bindings:
//   0 read  x q8[ROWS,INNER]
//   1 write y u32[HIGH,SIXTEENTHS,4]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint INNER = 16;
layout(constant_id = 2) const uint HIGH = 8;
layout(constant_id = 3) const uint SIXTEENTHS = 1;  // of a row, 16 codes each
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer X { uvec4 x[]; };
layout(binding = 1, std430) writeonly buffer Y { uvec4 y[]; };
#include "index.glsl"

void main() {
  const uint place = group() * gl_WorkGroupSize.x + gl_LocalInvocationIndex;
  const uint row = place / 8 / SIXTEENTHS * 8 + place % 8;
  if (row < HIGH) {
    y[place] = row < ROWS ? x[row * SIXTEENTHS + place / 8 % SIXTEENTHS] : uvec4(0);
  }
}
