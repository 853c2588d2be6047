#version 460
#extension GL_GOOGLE_include_directive : require
// rms_norm_weight_grad: dw = sum of dy x r over each of PARTS runs of ceil(ROWS / PARTS) rows, one
// workgroup for 32 columns of a run.
//
// Reference: op rms_norm_weight_grad, with r from inverse_rms; sum_parts adds the runs.
// Bindings:
//   0 read  dy f32[ROWS,COLUMNS]
//   1 read  x  f32[ROWS,COLUMNS]
//   2 read  r  f32[ROWS]
//   3 write dw f32[PARTS,COLUMNS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const uint PARTS = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Dy { float dy[]; };
layout(binding = 1, std430) readonly buffer X { float x[]; };
layout(binding = 2, std430) readonly buffer R { float r[]; };
layout(binding = 3, std430) writeonly buffer Dw { float dw[]; };
#include "index.glsl"

const uint WIDTH = 32;
const uint LANES = 256 / WIDTH;
const uint TILES = (COLUMNS + WIDTH - 1) / WIDTH;
const uint RUN = (ROWS + PARTS - 1) / PARTS;
shared float parts[256];

void main() {
  const uint self = gl_LocalInvocationIndex, lane = self / WIDTH, part = group() / TILES;
  const uint column = group() % TILES * WIDTH + self % WIDTH;
  const bool is_mine = column < COLUMNS && part < PARTS;
  float sum = 0;
  if (is_mine) {
    const uint end = min((part + 1) * RUN, ROWS);
    for (uint row = part * RUN + lane; row < end; row += LANES) {
      sum += dy[row * COLUMNS + column] * x[row * COLUMNS + column] * r[row];
    }
  }
  parts[self] = sum;
  barrier();
  if (lane == 0 && is_mine) {
    for (uint i = 1; i < LANES; i++) {
      sum += parts[self + i * WIDTH];
    }
    dw[part * COLUMNS + column] = sum;
  }
}
