#version 460
#extension GL_GOOGLE_include_directive : require
// matvec_f16: y = a b^T for a few rows of a, b of f16.
//
// Fills COLUMNS columns of y from FIRST on: b may be some rows of a larger matrix.
// Reference: op matmul with transpose_b.
// Bindings:
//   0 read  a f32[ROWS,INNER]
//   1 read  b f16[COLUMNS,INNER]
//   2 write y f32[ROWS,WIDTH]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint INNER = 1;
layout(constant_id = 2) const uint COLUMNS = 1;
layout(constant_id = 3) const uint LANES = 8;
layout(constant_id = 4) const uint WORKGROUP = 128;
layout(constant_id = 5) const uint WIDTH = 1;
layout(constant_id = 6) const uint FIRST = 0;
layout(local_size_x_id = 4) in;
#include "matrix.glsl"
MATRIX_F32(a, 0, ROWS, INNER)
MATRIX_F16(b, 1, COLUMNS, INNER)
layout(binding = 2, std430) writeonly buffer Y { float y[]; };
#include "matvec.glsl"
