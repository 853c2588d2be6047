#version 460
#extension GL_GOOGLE_include_directive : require
// rows_grad_f32: dh[rows[i]] += dz[i] table, for the listed rows and COLUMNS rows of a table of f32;
// with PARTED y = dz table of each of PARTS parts of these apart, which listed_sums adds up.
//
// Reference: op linear_cross_entropy_grad, the last step for a part of the table.
// Bindings:
#ifdef PARTED
//   0 read   dz    f32[PLACES,COLUMNS]
//   1 read   table f32[COLUMNS,WIDTH]
//   2 read   count u32[2]
//   3 write  y     f32[PARTS,PLACES,WIDTH]
#else
//   0 read   dz    f32[ROWS,COLUMNS]
//   1 read   table f32[COLUMNS,WIDTH]
//   2 read   count u32[1]
//   3 read   rows  u32[ROWS]
//   4 update dh    f32[ROWS,WIDTH]
#endif
#ifdef PARTED
layout(constant_id = 0) const uint PLACES = 1;
#else
layout(constant_id = 0) const uint ROWS = 1;
#endif
layout(constant_id = 1) const uint WIDTH = 1;
layout(constant_id = 2) const uint COLUMNS = 1;
layout(constant_id = 3) const uint TILE_M = 64;
layout(constant_id = 4) const uint TILE_N = 64;
layout(constant_id = 5) const uint QUADS_M = 1;
layout(constant_id = 6) const uint QUADS_N = 1;
layout(constant_id = 7) const uint WORKGROUP = 256;
#ifdef PARTED
layout(constant_id = 8) const uint PARTS = 1;
#define ROWS PLACES
#endif
layout(local_size_x_id = 7) in;
#include "matrix.glsl"
MATRIX_F32(dz, 0, ROWS, COLUMNS)
MATRIX_F32(table, 1, COLUMNS, WIDTH)
#include "rows_grad.glsl"
