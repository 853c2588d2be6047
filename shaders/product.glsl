// What the tiled products of f32 share: which tile and which part of the inner axis a workgroup
// has, and where its sums go. The includer has the constants of tile.glsl, ROWS, INNER, COLUMNS and
// PARTS, and defines store_y(row, column, quad) and, if sums are to be multiplied, FACTOR. What
// `finish` (epilogue.glsl) adds is added to the first part.

#include "index.glsl"
#define QUAD vec4
#define SUMS vec4
#define MULTIPLY(sums, item, quad) sums = fma(SUMS(item), quad, sums)
#include "tile.glsl"
#include "epilogue.glsl"
#ifndef FACTOR
#define FACTOR 1.0
#endif

const uint TILES_M = (ROWS + TILE_M - 1) / TILE_M;
const uint TILES_N = (COLUMNS + TILE_N - 1) / TILE_N;
const uint STEPS = (INNER + TILE_K - 1) / TILE_K;
const uint PART = (STEPS + PARTS - 1) / PARTS * TILE_K;  // of the inner axis

uint part() {
  return group() / (TILES_M * TILES_N);
}

void store_part(uint row, uint column, vec4 square[4]) {
  [[unroll]] for (uint i = 0; i < 4; i++) {
    square[i] *= FACTOR;
  }
  if (part() == 0) {
    finish(square, row, 1, column);
  }
  [[unroll]] for (uint i = 0; i < 4; i++) {
    if (row + i < ROWS) {
      store_y(part() * ROWS + row + i, column, square[i]);
    }
  }
}

void multiply() {
  const uint number = group();
  const uint row = number / TILES_N % TILES_M * TILE_M;
  const uint column = number % TILES_N * TILE_N;
  if (part() < PARTS) {
    const uint begin = part() * PART;
    multiply_tiles(row, column, begin, min(begin + PART, INNER));
    STORE_SQUARES(store_part, row, column)
  }
}
