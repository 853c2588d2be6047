#version 460
#extension GL_GOOGLE_include_directive : require
// logits_grad_f32: for listed rows and COLUMNS rows of a table of f32: dz = spread exp(z - lse) -
// peak onehot(target), with the logits z. A target that is none of these columns counts nothing.
//
// Reference: op linear_cross_entropy_grad, before the product with the table.
// Bindings:
//   0 read  h       f32[ROWS,WIDTH]
//   1 read  table   f32[COLUMNS,WIDTH]
//   2 read  targets i32[PITCH]
//   3 read  rows    u32[ROWS]
//   4 read  count   u32[1]
//   5 read  spread  f32[ROWS]
//   6 read  peak    f32[ROWS]
//   7 read  lse     f32[ROWS]
//   8 write dz      f32[ROWS,COLUMNS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint WIDTH = 1;
layout(constant_id = 2) const uint COLUMNS = 1;
layout(constant_id = 3) const uint TILE_M = 64;
layout(constant_id = 4) const uint TILE_N = 64;
layout(constant_id = 5) const uint QUADS_M = 1;
layout(constant_id = 6) const uint QUADS_N = 1;
layout(constant_id = 7) const uint WORKGROUP = 256;
layout(constant_id = 8) const uint PITCH = 1;
layout(local_size_x_id = 7) in;
#include "matrix.glsl"
MATRIX_F32(h, 0, ROWS, WIDTH)
MATRIX_F32(table, 1, COLUMNS, WIDTH)
#include "logits_grad.glsl"
