#version 460
#extension GL_GOOGLE_include_directive : require
// ternary_matmul_t: y = x w with ternary weights, for each of PARTS parts of the inner axis apart.
//
// Reference: op ternary_matmul_t; sum_parts adds the parts.
// Bindings:
//   0 read  x f32[ROWS,INNER]
//   1 read  w t2[INNER,COLUMNS]
//   2 write y f32[PARTS,ROWS,COLUMNS]
#ifdef LOW
//   n read  low f32[ROWS,RANK]
//   n read  b   f32[RANK,COLUMNS]
#endif
#ifdef ADDED
//   n read  added f32[ROWS,COLUMNS]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint INNER = 1;
layout(constant_id = 2) const uint COLUMNS = 1;
layout(constant_id = 3) const uint PARTS = 1;
layout(constant_id = 4) const uint TILE_M = 64;
layout(constant_id = 5) const uint TILE_N = 64;
layout(constant_id = 6) const uint QUADS_M = 1;
layout(constant_id = 7) const uint QUADS_N = 1;
layout(constant_id = 8) const uint WORKGROUP = 256;
#ifdef LOW
layout(constant_id = n) const uint RANK = 1;
#endif
layout(local_size_x_id = 8) in;
#include "matrix.glsl"
#include "ternary.glsl"
MATRIX_F32(x, 0, ROWS, INNER)
TERNARY(w, 1, INNER, COLUMNS)
RESULT_F32(y, 2, COLUMNS, 0, COLUMNS)
#define FACTOR w_scale()
#define ACROSS
#include "product.glsl"

vec4 load_w(uint row, uint column) {
  return to_floats(w_bytes(row, column));
}

void stage(uint row, uint column, uint k) {
  STAGE_ALONG(tile_a, PITCH_A, TILE_M, load_x, row, k)
  STAGE_ACROSS(tile_b, PITCH_B, TILE_N, load_w, column, k)
}

void main() {
  multiply();
}
