#version 460
#extension GL_GOOGLE_include_directive : require
// code_panels: the codes of x in panels (panels.glsl), sixteen at a time in the order of the words of
// ternary weights; rows from ROWS on are zero.
//
// Reference: the codes of op quantize. INNER is a multiple of 128, HIGH too.
// Bindings:
//   0 read  x q8[ROWS,INNER]
//   1 write y u32[HIGH,SIXTEENTHS,4]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint INNER = 128;
layout(constant_id = 2) const uint HIGH = 128;
layout(constant_id = 3) const uint SIXTEENTHS = 8;  // of a row, 16 codes each
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer X { uvec4 x[]; };
layout(binding = 1, std430) writeonly buffer Y { uvec4 y[]; };
#include "index.glsl"
#include "panels.glsl"

// A workgroup has a group of 128 activations of 32 rows, so that whole lines are read.
void main() {
  const uint groups = SIXTEENTHS / 8;
  const uint row = group() / groups * 32 + gl_LocalInvocationIndex % 32;
  const uint sixteenth = group() % groups * 8 + gl_LocalInvocationIndex / 32;
  // The words of a half of a group have the activations 32 q + 16 h and on.
  const uint q = sixteenth % 4, h = sixteenth / 4 % 2;
  if (row < HIGH) {
    const uint place = row * SIXTEENTHS + sixteenth / 8 * 8 + 2 * q + h;
    y[place_in_panels(row, sixteenth, SIXTEENTHS)] = row < ROWS ? x[place] : uvec4(0);
  }
}
