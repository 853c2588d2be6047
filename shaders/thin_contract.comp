#version 460
#extension GL_GOOGLE_include_directive : require
// thin_contract: y = a^T b with few rows or few columns, for each of some pairs of a and b.
//
// Reference: op contract_rows.
// Bindings:
#pragma each
//   n read  a@ f32[INNER,ROWS@]
//   n read  b@ f32[INNER,COLUMNS@]
//   n write y@ f32[ROWS@,COLUMNS@]
#pragma end
layout(constant_id = 0) const uint INNER = 1;
layout(constant_id = 1) const uint LANES = 16;
layout(constant_id = 2) const uint WORKGROUP = 256;
#pragma each
layout(constant_id = n) const uint ROWS@ = 1;
layout(constant_id = n) const uint COLUMNS@ = 1;
#pragma end
layout(local_size_x_id = 2) in;
#define ROWS_TOGETHER
#include "thin.glsl"
#pragma each
MATRIX_F32(a@, AT_a@, INNER, ROWS@)
MATRIX_F32(b@, AT_b@, INNER, COLUMNS@)
layout(binding = AT_y@, std430) writeonly buffer Y@ { float y@[]; };
const uint TILES_N@ = (COLUMNS@ + TILE - 1) / TILE;
const uint TILES@ = (ROWS@ + TILE - 1) / TILE * TILES_N@;

void contract@(uint tile) {
  const uint row = tile / TILES_N@ * TILE;
  const uint column = tile % TILES_N@ * TILE;
  for (uint k = lane(); k < INNER; k += 4 * LANES) {
    vec4 a[4], b[4];
    [[unroll]] for (uint i = 0; i < 4; i++) {
      a[i] = load_a@(k + i * LANES, row + square_row());
      b[i] = load_b@(k + i * LANES, column + square_column());
    }
    [[unroll]] for (uint i = 0; i < 4; i++) {
      [[unroll]] for (uint j = 0; j < 4; j++) {
        sums[j] += a[i][j] * b[i];
      }
    }
  }
  share_sums();
  for (uint i = gl_LocalInvocationIndex; i < TILE * TILE; i += WORKGROUP) {
    const uint line = row + i / TILE;
    const uint place = column + i % TILE;
    if (line < ROWS@ && place < COLUMNS@) {
      y@[line * COLUMNS@ + place] = tile_sum(i / TILE, i % TILE);
    }
  }
}
#pragma end

void main() {
  sums = vec4[4](vec4(0), vec4(0), vec4(0), vec4(0));
  uint tile = group();
#pragma each
  if (tile < TILES@) {
    contract@(tile);
    return;
  }
  tile -= TILES@;
#pragma end
}
