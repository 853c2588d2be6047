#version 460
#extension GL_GOOGLE_include_directive : require
// contract_rows: y = a^T b, for each of PARTS parts of the rows apart.
//
// Reference: op contract_rows; sum_parts adds the parts.
// Bindings:
//   0 read  a f32[INNER,ROWS]
//   1 read  b f32[INNER,COLUMNS]
//   2 write y f32[PARTS,ROWS,COLUMNS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint INNER = 1;
layout(constant_id = 2) const uint COLUMNS = 1;
layout(constant_id = 3) const uint PARTS = 1;
layout(constant_id = 4) const uint TILE_M = 64;
layout(constant_id = 5) const uint TILE_N = 64;
layout(constant_id = 6) const uint QUADS_M = 1;
layout(constant_id = 7) const uint QUADS_N = 1;
layout(constant_id = 8) const uint WORKGROUP = 256;
layout(local_size_x_id = 8) in;
#include "matrix.glsl"
MATRIX_F32(a, 0, INNER, ROWS)
MATRIX_F32(b, 1, INNER, COLUMNS)
RESULT_F32(y, 2, COLUMNS, 0, COLUMNS)
#include "product.glsl"

void stage(uint row, uint column, uint k) {
  STAGE_ACROSS(tile_a, PITCH_A, TILE_M, load_a, row, k)
  STAGE_ACROSS(tile_b, PITCH_B, TILE_N, load_b, column, k)
}

void main() {
  multiply();
}
