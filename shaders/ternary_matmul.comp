#version 460
#extension GL_GOOGLE_include_directive : require
// ternary_matmul: y = x w^T of int8 activations and ternary weights, by tiles,
// in plain integer arithmetic.
//
// Reference: op ternary_matmul.
// Bindings:
//   0 read  x q8[ROWS,INNER]
//   1 read  w t2[COLUMNS,INNER]
#ifdef ADDED
//   2 write y f32[ROWS,COLUMNS] over added
#else
//   2 write y f32[ROWS,COLUMNS]
#endif
#ifdef LOW
//   n read  low f32[ROWS,RANK]
//   n read  b   f32[COLUMNS,RANK]
#endif
#ifdef ADDED
//   n read  added f32[ROWS,COLUMNS]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint INNER = 1;
layout(constant_id = 2) const uint COLUMNS = 1;
layout(constant_id = 3) const uint TILE_M = 64;
layout(constant_id = 4) const uint TILE_N = 64;
layout(constant_id = 5) const uint QUADS_M = 1;
layout(constant_id = 6) const uint QUADS_N = 1;
layout(constant_id = 7) const uint WORKGROUP = 256;
#ifdef LOW
layout(constant_id = n) const uint RANK = 1;
#endif
layout(local_size_x_id = 7) in;
#include "dot4.glsl"
#include "ternary_matmul.glsl"
