#version 460
#extension GL_GOOGLE_include_directive : require
// table_grad: y = the sum over the listed rows of dz[i]^T h[rows[i]], for ROWS rows of a table, for
// each of PARTS parts of the list apart.
//
// Reference: op linear_cross_entropy_table_grad, with dz from logits_grad_f32; sum_parts adds.
// Bindings:
//   0 read  dz    f32[INNER,ROWS]
//   1 read  h     f32[INNER,COLUMNS]
//   2 read  rows  u32[INNER]
//   3 read  count u32[1]
//   4 write y     f32[PARTS,ROWS,COLUMNS]
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
layout(binding = 2, std430) readonly buffer Rows { uint rows[]; };
layout(binding = 3, std430) readonly buffer Count { uint count[]; };
#include "matrix.glsl"
MATRIX_F32(dz, 0, INNER, ROWS)
MATRIX_F32(h, 1, INNER, COLUMNS)
RESULT_F32(y, 4, COLUMNS, 0, COLUMNS)
#include "product.glsl"

// What lies behind the last listed row was not written.
vec4 load_gradient(uint place, uint column) {
  return place < count[0] ? load_dz(place, column) : vec4(0);
}

vec4 load_listed(uint place, uint column) {
  return place < count[0] ? load_h(rows[place], column) : vec4(0);
}

void stage(uint row, uint column, uint k) {
  STAGE_ACROSS(tile_a, PITCH_A, TILE_M, load_gradient, row, k)
  STAGE_ACROSS(tile_b, PITCH_B, TILE_N, load_listed, column, k)
}

void main() {
  multiply();
}
