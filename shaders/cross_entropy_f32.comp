#version 460
#extension GL_GOOGLE_include_directive : require
// cross_entropy_f32: of the logits z of listed rows, tile by tile of COLUMNS rows of a table of f32:
// the largest, the sum of exp(z - largest), and z[target], or zero where that is not in the tile.
// Logits live tile by tile; with KEPT, those of PLACES rows from the list's place count[1] on are kept.
//
// Reference: op linear_cross_entropy; cross_entropy_merge makes its results of these.
// Bindings:
//   0 read  h       f32[ROWS,WIDTH]
//   1 read  table   f32[COLUMNS,WIDTH]
//   2 read  targets i32[PITCH]
//   3 read  rows    u32[ROWS]
#ifdef KEPT
//   4 read  count   u32[2]
#else
//   4 read  count   u32[1]
#endif
#ifdef KEPT
//   5 write partial f32[TILES,3,PLACES]
//   n write z       f32[PLACES,COLUMNS]
#else
//   5 write partial f32[TILES,3,PITCH]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint WIDTH = 1;
layout(constant_id = 2) const uint COLUMNS = 1;
layout(constant_id = 3) const uint TILE_M = 64;
layout(constant_id = 4) const uint TILE_N = 64;
layout(constant_id = 5) const uint QUADS_M = 1;
layout(constant_id = 6) const uint QUADS_N = 1;
layout(constant_id = 7) const uint WORKGROUP = 256;
layout(constant_id = 8) const uint TILES = 1;
layout(constant_id = 9) const uint PITCH = 1;
#ifdef KEPT
layout(constant_id = 10) const uint PLACES = 1;
#endif
layout(local_size_x_id = 7) in;
#include "matrix.glsl"
MATRIX_F32(h, 0, ROWS, WIDTH)
MATRIX_F32(table, 1, COLUMNS, WIDTH)
#ifdef KEPT
RESULT_F32(z, AT_z, COLUMNS, 0, COLUMNS)
#endif
#include "cross_entropy.glsl"
