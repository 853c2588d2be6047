#version 460
#extension GL_GOOGLE_include_directive : require
// matmul_t_f16: y = a b^T, b of f16, for each of PARTS parts of the inner axis apart.
//
// Fills COLUMNS columns of y from FIRST on: b may be some rows of a larger matrix.
// Reference: op matmul with transpose_b; sum_parts adds the parts.
// Bindings:
//   0 read  a f32[ROWS,INNER]
//   1 read  b f16[COLUMNS,INNER]
//   2 write y f32[PARTS,ROWS,WIDTH]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint INNER = 1;
layout(constant_id = 2) const uint COLUMNS = 1;
layout(constant_id = 3) const uint PARTS = 1;
layout(constant_id = 4) const uint TILE_M = 64;
layout(constant_id = 5) const uint TILE_N = 64;
layout(constant_id = 6) const uint QUADS_M = 1;
layout(constant_id = 7) const uint QUADS_N = 1;
layout(constant_id = 8) const uint WORKGROUP = 256;
layout(constant_id = 9) const uint WIDTH = 1;
layout(constant_id = 10) const uint FIRST = 0;
layout(local_size_x_id = 8) in;
#include "matrix.glsl"
MATRIX_F32(a, 0, ROWS, INNER)
MATRIX_F16(b, 1, COLUMNS, INNER)
RESULT_F32(y, 2, WIDTH, FIRST, COLUMNS)
#include "product.glsl"

void stage(uint row, uint column, uint k) {
  STAGE_ALONG(tile_a, PITCH_A, TILE_M, load_a, row, k)
  STAGE_ALONG(tile_b, PITCH_B, TILE_N, load_b, column, k)
}

void main() {
  multiply();
}
