#version 460
#extension GL_GOOGLE_include_directive : require
// dequantize: y = codes / scale of the row, four codes an invocation.
//
// Reference: op dequantize.
// Bindings:
//   0 read  q q8[ROWS,COLUMNS]
//   1 write y f32[ROWS,COLUMNS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Q { int q[]; };
layout(binding = 1, std430) writeonly buffer Y { float y[]; };
layout(binding = 1, std430) writeonly buffer Y4 { vec4 y4[]; };
#include "index.glsl"
#include "rows.glsl"
DEFINE_SET(y)

void main() {
  const uint i = item(), row = i / COLUMNS4;
  if (row < ROWS) {
    const int word = q[i];
    const vec4 codes = vec4(bitfieldExtract(word, 0, 8), bitfieldExtract(word, 8, 8),
                            bitfieldExtract(word, 16, 8), bitfieldExtract(word, 24, 8));
    y_set(row, i % COLUMNS4, codes / intBitsToFloat(q[ROWS * COLUMNS4 + row]));
  }
}
