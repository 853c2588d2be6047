#version 460
#extension GL_GOOGLE_include_directive : require
// rms_norm_weight_grad: dw = sum over the rows of dy x r, one workgroup for 32 columns.
//
// Reference: op rms_norm_weight_grad, with r from inverse_rms.
// Bindings:
//   0 read  dy f32[ROWS,COLUMNS]
//   1 read  x  f32[ROWS,COLUMNS]
//   2 read  r  f32[ROWS]
//   3 write dw f32[COLUMNS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Dy { float dy[]; };
layout(binding = 1, std430) readonly buffer X { float x[]; };
layout(binding = 2, std430) readonly buffer R { float r[]; };
layout(binding = 3, std430) writeonly buffer Dw { float dw[]; };
#include "index.glsl"

const uint WIDTH = 32;
const uint LANES = 256 / WIDTH;
shared float parts[256];

void main() {
  const uint self = gl_LocalInvocationIndex, lane = self / WIDTH;
  const uint column = group() * WIDTH + self % WIDTH;
  float sum = 0;
  if (column < COLUMNS) {
    for (uint row = lane; row < ROWS; row += LANES) {
      sum += dy[row * COLUMNS + column] * x[row * COLUMNS + column] * r[row];
    }
  }
  parts[self] = sum;
  barrier();
  if (lane == 0 && column < COLUMNS) {
    for (uint i = 1; i < LANES; i++) {
      sum += parts[self + i * WIDTH];
    }
    dw[column] = sum;
  }
}
