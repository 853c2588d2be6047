#version 460
#extension GL_KHR_cooperative_matrix : require
#extension GL_NV_cooperative_matrix2 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
// halves_product_nv: the sums of h e, two matrices of f16, in f32, by matrices as large as a workgroup.
// Each of the first WHOLE tiles has a workgroup and is written to y; every other has PARTS of them, each
// with some steps of the inner axis, which write to parts (backends/vulkan/lowering/shares.py).
//
// Reference: op matmul. ROWS, INNER and COLUMNS are multiples of TILE_M, DEPTH and TILE_N: loads that
// need not be clamped are twice as fast.
// Bindings:
//   0 read  h f16[ROWS,INNER]
//   1 read  e f16[INNER,COLUMNS]
//   2 write y f32[ROWS,COLUMNS]
//   3 write parts f32[UNITS,TILE_M,TILE_N]
layout(constant_id = 0) const uint ROWS = 128;
layout(constant_id = 1) const uint INNER = 32;
layout(constant_id = 2) const uint COLUMNS = 256;
layout(constant_id = 3) const uint TILE_M = 128;
layout(constant_id = 4) const uint TILE_N = 256;
layout(constant_id = 5) const uint WORKGROUP = 256;
layout(constant_id = 6) const uint WHOLE = 1;
layout(constant_id = 7) const uint PARTS = 1;
layout(constant_id = 8) const uint UNITS = 1;
layout(local_size_x_id = 5) in;
layout(binding = 0, std430) readonly buffer H { float16_t h[]; };
layout(binding = 1, std430) readonly buffer E { float16_t e[]; };
layout(binding = 2, std430) writeonly buffer Y { float y[]; };
layout(binding = 3, std430) writeonly buffer Parts { float parts[]; };

const uint DEPTH = 32;
const uint STEPS = INNER / DEPTH;
const uint TILES_N = COLUMNS / TILE_N;
const uint TILES = ROWS / TILE_M * TILES_N;
const int MODE = gl_CooperativeMatrixClampModeUndefinedNV;

void main() {
  const uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
  const bool whole = group < WHOLE;
  const uint unit = group - WHOLE;
  const uint tile = whole ? group : WHOLE + unit / PARTS;
  if (tile >= TILES) {
    return;
  }
  const uint part = unit % PARTS;
  const uint begin = whole ? 0 : STEPS * part / PARTS;
  const uint end = whole ? STEPS : STEPS * (part + 1) / PARTS;
  const uint row = tile / TILES_N * TILE_M;
  const uint column = tile % TILES_N * TILE_N;

  tensorLayoutNV<2, MODE> of_h = createTensorLayoutNV(2, MODE);
  tensorLayoutNV<2, MODE> of_e = createTensorLayoutNV(2, MODE);
  tensorLayoutNV<2, MODE> of_y = createTensorLayoutNV(2, MODE);
  tensorLayoutNV<2, MODE> of_parts = createTensorLayoutNV(2, MODE);
  of_h = setTensorLayoutDimensionNV(of_h, ROWS, INNER);
  of_e = setTensorLayoutDimensionNV(of_e, INNER, COLUMNS);
  of_y = setTensorLayoutDimensionNV(of_y, ROWS, COLUMNS);
  of_parts = setTensorLayoutDimensionNV(of_parts, UNITS * TILE_M, TILE_N);

  coopmat<float, gl_ScopeWorkgroup, TILE_M, TILE_N, gl_MatrixUseAccumulator> sums =
      coopmat<float, gl_ScopeWorkgroup, TILE_M, TILE_N, gl_MatrixUseAccumulator>(0);
  for (uint step = begin; step < end; step++) {
    coopmat<float16_t, gl_ScopeWorkgroup, TILE_M, DEPTH, gl_MatrixUseA> a;
    coopmat<float16_t, gl_ScopeWorkgroup, DEPTH, TILE_N, gl_MatrixUseB> b;
    coopMatLoadTensorNV(a, h, 0, sliceTensorLayoutNV(of_h, row, TILE_M, step * DEPTH, DEPTH));
    coopMatLoadTensorNV(b, e, 0, sliceTensorLayoutNV(of_e, step * DEPTH, DEPTH, column, TILE_N));
    sums = coopMatMulAdd(a, b, sums);
  }
  if (whole) {
    coopMatStoreTensorNV(sums, y, 0, sliceTensorLayoutNV(of_y, row, TILE_M, column, TILE_N));
  } else {
    coopMatStoreTensorNV(sums, parts, 0,
                         sliceTensorLayoutNV(of_parts, unit * TILE_M, TILE_M, 0, TILE_N));
  }
}
