#version 460
#extension GL_GOOGLE_include_directive : require
// ternary_panels: the codes of some ternary w below each other, in panels (panels.glsl): sixteen bytes of
// a row are the weights of half a group of 128. What rows from the last on have does not matter.
//
// Reference: the right factor of ternary_matmul_cm. INNER is a multiple of 128, HIGH too, and with several
// w each COLUMNS.
// Bindings:
//   0 write y u32[HIGH,STRIPS,4]
#pragma each
//   n read  w@ t2[COLUMNS@,INNER]
#pragma end
layout(constant_id = 0) const uint INNER = 128;
layout(constant_id = 1) const uint HIGH = 128;
layout(constant_id = 2) const uint STRIPS = 2;  // of a row, 64 weights each
#pragma each
layout(constant_id = n) const uint COLUMNS@ = 4;
#pragma end
layout(local_size_x = 256) in;
layout(binding = 0, std430) writeonly buffer Y { uvec4 y[]; };
#pragma each
layout(binding = AT_w@, std430) readonly buffer W@ { uvec4 w@[]; };
#pragma end
#include "index.glsl"
#include "panels.glsl"

uvec4 codes_of(uint column, uint strip) {
#pragma each
  if (column < COLUMNS@) {
    return w@[column * STRIPS + strip];
  }
  column -= COLUMNS@;
#pragma end
  return uvec4(0);
}

// A workgroup has eight strips of 32 rows, so that whole lines are read.
void main() {
  const uint groups = (STRIPS + 7) / 8;
  const uint column = group() / groups * 32 + gl_LocalInvocationIndex % 32;
  const uint strip = group() % groups * 8 + gl_LocalInvocationIndex / 32;
  if (column < HIGH && strip < STRIPS) {
    y[place_in_panels(column, strip, STRIPS)] = codes_of(column, strip);
  }
}
