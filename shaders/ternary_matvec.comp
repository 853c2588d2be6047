#version 460
#extension GL_GOOGLE_include_directive : require
// ternary_matvec: y = x w^T of a few rows of int8 activations and ternary weights,
// in plain integer arithmetic.
//
// Reference: op ternary_matmul. INNER is a multiple of 128.
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
#ifdef ROTATED
//   n read  table f32[ROWS,WIDTH]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint INNER = 1;
layout(constant_id = 2) const uint COLUMNS = 1;
layout(constant_id = 3) const uint LANES = 8;
layout(constant_id = 4) const uint WORKGROUP = 128;
#ifdef LOW
layout(constant_id = n) const uint RANK = 1;
#endif
#ifdef ROTATED
layout(constant_id = n) const uint WIDTH = 2;
#endif
layout(local_size_x_id = 4) in;
#include "dot4.glsl"
#include "ternary_matvec.glsl"
