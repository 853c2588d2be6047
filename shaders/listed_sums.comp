#version 460
#extension GL_GOOGLE_include_directive : require
// listed_sums: dh[rows[i]] = the sum over PARTS parts of y, of PLACES listed rows from the place count[1] on;
// with SCALED times what logits_grad_cm divides the row by.
//
// Reference: op linear_cross_entropy_grad, the second stage of rows_grad+parted.
// Bindings:
//   0 read   y      f32[PARTS,PLACES,WIDTH]
//   1 read   rows   u32[ROWS]
//   2 read   count  u32[2]
//   3 update dh     f32[ROWS,WIDTH]
#ifdef SCALED
//   4 read   spread f32[ROWS]
//   5 read   peak   f32[ROWS]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint PLACES = 1;
layout(constant_id = 2) const uint WIDTH = 4;
layout(constant_id = 3) const uint PARTS = 1;
layout(local_size_x = 128) in;
layout(binding = 1, std430) readonly buffer Rows { uint rows[]; };
layout(binding = 2, std430) readonly buffer Count { uint count[]; };
#ifdef SCALED
layout(binding = 4, std430) readonly buffer Spread { float spread[]; };
layout(binding = 5, std430) readonly buffer Peak { float peak[]; };
#include "gradient_scale.glsl"
#endif
#include "index.glsl"
#include "matrix.glsl"
MATRIX_F32(y, 0, PARTS * PLACES, WIDTH)
layout(binding = 3, std430) buffer Dh { float dh[]; };
layout(binding = 3, std430) buffer Dh4 { vec4 dh4[]; };

const uint QUADS = (WIDTH + 3) / 4;

void main() {
  const uint place = item() / QUADS;
  const uint column = item() % QUADS * 4;
  if (place >= PLACES || count[1] + place >= count[0]) {
    return;
  }
  const uint row = rows[count[1] + place];
  vec4 sum = vec4(0);
  for (uint part = 0; part < PARTS; part++) {
    sum += load_y(part * PLACES + place, column);
  }
#ifdef SCALED
  sum *= gradient_scale(row) / LARGEST;
#endif
  const uint i = row * WIDTH + column;
  if (WIDTH % 4 == 0) {
    dh4[i / 4] = sum;
  } else {
    for (uint j = 0; j < 4 && column + j < WIDTH; j++) {
      dh[i + j] = sum[j];
    }
  }
}
