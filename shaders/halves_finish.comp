#version 460
#extension GL_GOOGLE_include_directive : require
// halves_finish: y = what halves_product_nv found, each row times its top, and what is added to it.
//
// Reference: op ternary_matmul_t. COLUMNS and HIGH are multiples of TILE_N and of TILE_M, and that of
// HEIGHT.
// Bindings:
#ifdef ADDED
//   0 write y     f32[ROWS,COLUMNS] over added
//   n read  added f32[ROWS,COLUMNS]
#else
//   0 write y     f32[ROWS,COLUMNS]
#endif
//   n read  product f32[HIGH,COLUMNS]
//   n read  parts   f32[UNITS,TILE_M,TILE_N]
//   n read  top     f32[ROWS]
#ifdef LOW
#pragma each
//   n read  low@ f32[ROWS,RANK]
//   n read  b@   f32[RANK,COLUMNS]
#pragma end
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 256;
layout(constant_id = 2) const uint HIGH = 128;
layout(constant_id = 3) const uint TILE_M = 128;
layout(constant_id = 4) const uint TILE_N = 256;
layout(constant_id = 5) const uint WHOLE = 1;
layout(constant_id = 6) const uint PARTS = 1;
layout(constant_id = 7) const uint UNITS = 1;
#ifdef LOW
layout(constant_id = n) const uint RANK = 1;
#endif
layout(local_size_x = 256) in;
layout(binding = 0, std430) writeonly buffer Y { vec4 y[]; };
layout(binding = AT_product, std430) readonly buffer Product { vec4 product[]; };
layout(binding = AT_parts, std430) readonly buffer Parts { vec4 parts[]; };
layout(binding = AT_top, std430) readonly buffer Top { float top[]; };
#define ACROSS
#include "epilogue.glsl"
#include "index.glsl"

const uint HEIGHT = 16;  // rows of a thread, which share what it reads of b

#ifdef LOW
#pragma each
MATRIX_F32(low@, AT_low@, ROWS, RANK)
MATRIX_F32(b@, AT_b@, RANK, COLUMNS)

void add_low@(inout vec4 sums[HEIGHT], uint row, uint column) {
  for (uint k = 0; k < RANK; k += 4) {
    vec4 quads[4];
    [[unroll]] for (uint j = 0; j < 4; j++) {
      quads[j] = load_b@(k + j, column);
    }
    [[unroll]] for (uint i = 0; i < HEIGHT; i++) {
      add_products(sums[i], load_low@(row + i, k), quads);
    }
  }
}
#pragma end
#endif

vec4 sums_at(uint row, uint column) {
  const uint tile = row / TILE_M * (COLUMNS / TILE_N) + column / TILE_N;
  if (tile < WHOLE) {
    return product[(row * COLUMNS + column) / 4];
  }
  const uint first = (tile - WHOLE) * PARTS * TILE_M + row % TILE_M;
  vec4 sums = vec4(0);
  for (uint part = 0; part < PARTS; part++) {
    sums += parts[((first + part * TILE_M) * TILE_N + column % TILE_N) / 4];
  }
  return sums;
}

void main() {
  const uint row = item() / (COLUMNS / 4) * HEIGHT;
  const uint column = item() % (COLUMNS / 4) * 4;
  if (row >= ROWS) {
    return;
  }
  vec4 sums[HEIGHT];
  [[unroll]] for (uint i = 0; i < HEIGHT; i++) {
    sums[i] = sums_at(row + i, column) * top[min(row + i, ROWS - 1)];
  }
#ifdef LOW
#pragma each
  add_low@(sums, row, column);
#pragma end
#endif
  [[unroll]] for (uint i = 0; i < HEIGHT; i++) {
    if (row + i < ROWS) {
#ifdef ADDED
      sums[i] += load_added(row + i, column);
#endif
      y[((row + i) * COLUMNS + column) / 4] = sums[i];
    }
  }
}
