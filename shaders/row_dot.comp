#version 460
#extension GL_GOOGLE_include_directive : require
// row_dot: d = sum over each row of a b, LANES invocations a row.
//
// Reference: op row_dot.
// Bindings:
//   0 read  a f32[ROWS,COLUMNS]
//   1 read  b f32[ROWS,COLUMNS]
//   2 write d f32[ROWS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const uint LANES = 32;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer A { float a[]; };
layout(binding = 1, std430) readonly buffer B { float b[]; };
layout(binding = 2, std430) writeonly buffer D { float d[]; };
#include "index.glsl"

shared float parts[256];

void main() {
  const uint row = item() / LANES, lane = item() % LANES, self = gl_LocalInvocationIndex;
  float sum = 0;
  if (row < ROWS) {
    for (uint i = lane; i < COLUMNS; i += LANES) {
      sum += a[row * COLUMNS + i] * b[row * COLUMNS + i];
    }
  }
  parts[self] = sum;
  for (uint width = LANES / 2; width > 0; width /= 2) {
    barrier();
    if (lane < width) {
      parts[self] += parts[self + width];
    }
  }
  if (lane == 0 && row < ROWS) {
    d[row] = parts[self];
  }
}
