#version 460
#extension GL_KHR_cooperative_matrix : require
#extension GL_NV_cooperative_matrix2 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
// logits_nv: the logits h table^T of PLACES listed rows from the place count[1] on, by matrices as large as
// a workgroup, each row divided by its power. h is the sum of two matrices, as listed_halves gives it; a
// tile of the table is read once for both.
//
// Reference: op linear_cross_entropy. PLACES, WIDTH and COLUMNS are multiples of TILE_M, DEPTH and TILE_N,
// and h has as many rows as all chunks: what is in those that are not listed does not matter.
// Bindings:
//   0 read  h     f16[2,HIGH,WIDTH]
//   1 read  table f16[COLUMNS,WIDTH]
//   2 read  count u32[2]
//   3 write z     f32[PLACES,COLUMNS]
layout(constant_id = 0) const uint HIGH = 128;
layout(constant_id = 1) const uint WIDTH = 32;
layout(constant_id = 2) const uint COLUMNS = 256;
layout(constant_id = 3) const uint PLACES = 128;
layout(constant_id = 4) const uint TILE_M = 128;
layout(constant_id = 5) const uint TILE_N = 256;
layout(constant_id = 6) const uint WORKGROUP = 256;
layout(local_size_x_id = 6) in;
layout(binding = 0, std430) readonly buffer H { float16_t h[]; };
layout(binding = 1, std430) readonly buffer Table { float16_t table[]; };
layout(binding = 2, std430) readonly buffer Count { uint count[]; };
layout(binding = 3, std430) writeonly buffer Z { float z[]; };

const uint DEPTH = 32;
const uint TILES_M = PLACES / TILE_M;
const int MODE = gl_CooperativeMatrixClampModeUndefinedNV;

void main() {
  const uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
  const uint row = group % TILES_M * TILE_M;  // rows first: what they read of the table is the same
  const uint column = group / TILES_M * TILE_N;
  const uint first = count[1] + row;
  if (column >= COLUMNS || first >= count[0]) {
    return;
  }

  tensorLayoutNV<2, MODE> of_h = createTensorLayoutNV(2, MODE);
  tensorLayoutNV<2, MODE> of_table = createTensorLayoutNV(2, MODE);
  tensorLayoutNV<2, MODE> of_z = createTensorLayoutNV(2, MODE);
  tensorViewNV<2, false, 1, 0> transposed = createTensorViewNV(2, false, 1, 0);
  of_h = setTensorLayoutDimensionNV(of_h, 2 * HIGH, WIDTH);
  of_table = setTensorLayoutDimensionNV(of_table, COLUMNS, WIDTH);
  of_z = setTensorLayoutDimensionNV(of_z, PLACES, COLUMNS);

  coopmat<float, gl_ScopeWorkgroup, TILE_M, TILE_N, gl_MatrixUseAccumulator> sums =
      coopmat<float, gl_ScopeWorkgroup, TILE_M, TILE_N, gl_MatrixUseAccumulator>(0);
  for (uint k = 0; k < WIDTH; k += DEPTH) {
    coopmat<float16_t, gl_ScopeWorkgroup, TILE_M, DEPTH, gl_MatrixUseA> high, low;
    coopmat<float16_t, gl_ScopeWorkgroup, DEPTH, TILE_N, gl_MatrixUseB> b;
    coopMatLoadTensorNV(b, table, 0, sliceTensorLayoutNV(of_table, column, TILE_N, k, DEPTH),
                        transposed);
    coopMatLoadTensorNV(high, h, 0, sliceTensorLayoutNV(of_h, first, TILE_M, k, DEPTH));
    coopMatLoadTensorNV(low, h, 0, sliceTensorLayoutNV(of_h, HIGH + first, TILE_M, k, DEPTH));
    sums = coopMatMulAdd(high, b, sums);
    sums = coopMatMulAdd(low, b, sums);
  }
  coopMatStoreTensorNV(sums, z, 0, sliceTensorLayoutNV(of_z, row, TILE_M, column, TILE_N));
}
