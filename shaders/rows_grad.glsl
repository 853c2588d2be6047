// The body of rows_grad_f16.comp and rows_grad_f32.comp.

layout(binding = 2, std430) readonly buffer Count { uint count[]; };
#ifdef PARTED
RESULT_F32(y, 3, WIDTH, 0, WIDTH)
#else
layout(binding = 3, std430) readonly buffer Rows { uint rows[]; };
layout(binding = 4, std430) buffer Dh { float dh[]; };
layout(binding = 4, std430) buffer Dh4 { vec4 dh4[]; };
#endif
#include "index.glsl"
#define QUAD vec4
#define SUMS vec4
#define MULTIPLY(sums, item, quad) sums = fma(SUMS(item), quad, sums)
#include "tile.glsl"

const uint TILES_N = (WIDTH + TILE_N - 1) / TILE_N;

void stage(uint row, uint column, uint k) {
  STAGE_ALONG(tile_a, PITCH_A, TILE_M, load_dz, row, k)
  STAGE_ACROSS(tile_b, PITCH_B, TILE_N, load_table, column, k)
}

#ifdef PARTED
const uint TILES_M = (PLACES + TILE_M - 1) / TILE_M;
const uint PART = (COLUMNS + PARTS * TILE_K - 1) / (PARTS * TILE_K) * TILE_K;

uint part() {
  return group() / (TILES_M * TILES_N);
}

void store(uint place, uint column, vec4 quad) {
  if (place < PLACES) {
    store_y(part() * PLACES + place, column, quad);
  }
}

void main() {
  const uint place = group() % TILES_M * TILE_M;
  const uint column = group() / TILES_M % TILES_N * TILE_N;
  if (part() < PARTS && count[1] + place < count[0]) {
    multiply_tiles(place, column, part() * PART, min((part() + 1) * PART, COLUMNS));
    STORE_TILE(store, place, column)
  }
}
#else
void add(uint place, uint column, vec4 quad) {
  if (place < count[0]) {
    const uint i = rows[place] * WIDTH + column;
    if (WIDTH % 4 == 0) {
      if (column < WIDTH) {
        dh4[i / 4] += quad;
      }
    } else {
      for (uint j = 0; j < 4 && column + j < WIDTH; j++) {
        dh[i + j] += quad[j];
      }
    }
  }
}

void main() {
  const uint place = group() / TILES_N * TILE_M;
  const uint column = group() % TILES_N * TILE_N;
  if (place < count[0]) {
    multiply_tiles(place, column, 0, COLUMNS);
    STORE_TILE(add, place, column)
  }
}
#endif
