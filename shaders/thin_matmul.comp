#version 460
#extension GL_GOOGLE_include_directive : require
// thin_matmul: y = FACTOR a b^T, or FACTOR a b with ACROSS, of few columns, for each of some pairs of a
// and b; with POWER also the power of two near the largest magnitude of each row of a.
//
// Reference: op matmul, then scale; row_power for the powers.
// Bindings:
#pragma each
//   n read  a@ f32[ROWS,INNER@]
#ifdef ACROSS
//   n read  b@ f32[INNER@,COLUMNS]
#else
//   n read  b@ f32[COLUMNS,INNER@]
#endif
//   n write y@ f32[ROWS,COLUMNS]
#ifdef POWER
//   n write power@ f32[ROWS]
#endif
#pragma end
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const float FACTOR = 1.0;
layout(constant_id = 3) const uint LANES = 16;
layout(constant_id = 4) const uint WORKGROUP = 256;
#pragma each
layout(constant_id = n) const uint INNER@ = 1;
#pragma end
layout(local_size_x_id = 4) in;
#include "power.glsl"
#include "thin.glsl"

const uint TILES_N = (COLUMNS + TILE - 1) / TILE;
const uint AHEAD = 2;  // steps whose items are on their way at once

vec4 tops = vec4(0);  // largest magnitudes of this thread's part of its rows of a

void add(vec4 a[4], vec4 b[4]) {
#ifdef ACROSS
  add_across(a, b);
#else
  add_along(a, b);
#endif
#ifdef POWER
  [[unroll]] for (uint i = 0; i < 4; i++) {
    const vec4 size = abs(a[i]);
    tops[i] = max(tops[i], max(max(size.x, size.y), max(size.z, size.w)));
  }
#endif
}

#pragma each
MATRIX_F32(a@, AT_a@, ROWS, INNER@)
#ifdef ACROSS
MATRIX_F32(b@, AT_b@, INNER@, COLUMNS)
#else
MATRIX_F32(b@, AT_b@, COLUMNS, INNER@)
#endif
layout(binding = AT_y@, std430) writeonly buffer Y@ { float y@[]; };
#ifdef POWER
layout(binding = AT_power@, std430) writeonly buffer Power@ { float power@[]; };
#endif

void multiply@(uint row, uint column) {
  for (uint k = 4 * lane(); k < INNER@; k += 4 * AHEAD * LANES) {
    vec4 a[AHEAD][4], b[AHEAD][4];
    [[unroll]] for (uint n = 0; n < AHEAD; n++) {
      const uint from = k + 4 * n * LANES;
      [[unroll]] for (uint i = 0; i < 4; i++) {
        a[n][i] = load_a@(row + i, from);
#ifdef ACROSS
        b[n][i] = load_b@(from + i, column);
#else
        b[n][i] = load_b@(column + i, from);
#endif
      }
    }
    [[unroll]] for (uint n = 0; n < AHEAD; n++) {
      add(a[n], b[n]);
    }
  }
}
#pragma end

void store(uint member, uint row, uint column, float y) {
  if (row < ROWS && column < COLUMNS) {
#pragma each
    if (member == @) {
      y@[row * COLUMNS + column] = y;
    }
#pragma end
  }
}

#ifdef POWER
// The first column of squares has seen all rows of the tile.
void store_powers(uint member, uint row) {
  barrier();
  if (square() % 4 == 0) {
    [[unroll]] for (uint i = 0; i < 4; i++) {
      partial[(square_row() + i) * PITCH + lane()] = tops[i];
    }
  }
  barrier();
  const uint line = gl_LocalInvocationIndex;
  if (line < TILE && row + line < ROWS) {
    float top = 0;
    for (uint i = 0; i < LANES; i++) {
      top = max(top, partial[line * PITCH + i]);
    }
    const float power = power_below(floatBitsToUint(top));
#pragma each
    if (member == @) {
      power@[row + line] = power;
    }
#pragma end
  }
}
#endif

// Tiles of the members take turns, so that members which share a factor read it at about the same time.
void main() {
  const uint member = group() % MEMBERS;
  const uint row = group() / MEMBERS / TILES_N * TILE;
  const uint column = group() / MEMBERS % TILES_N * TILE;
  if (row >= ROWS) {
    return;
  }
  sums = vec4[4](vec4(0), vec4(0), vec4(0), vec4(0));
#pragma each
  if (member == @) {
    multiply@(row + square_row(), column + square_column());
  }
#pragma end
  share_sums();
  for (uint i = gl_LocalInvocationIndex; i < TILE * TILE; i += WORKGROUP) {
    store(member, row + i / TILE, column + i % TILE, FACTOR * tile_sum(i / TILE, i % TILE));
  }
#ifdef POWER
  if (column == 0) {
    store_powers(member, row);
  }
#endif
}
