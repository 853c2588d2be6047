// A tile of the logits h table^T: TILE_M of the listed rows of h, TILE_N of the table's COLUMNS rows.
//
// The includer declares ROWS, WIDTH and COLUMNS, the constants of tile.glsl, and the operands h,
// table, rows and count; with KEPT also PLACES, and only so many rows from count[1] on are treated.

#include "index.glsl"
#define QUAD vec4
#define SUMS vec4
#define MULTIPLY(sums, item, quad) sums = fma(SUMS(item), quad, sums)
#include "tile.glsl"

#ifdef KEPT
const uint TILES_M = (PLACES + TILE_M - 1) / TILE_M;
#else
const uint TILES_M = (ROWS + TILE_M - 1) / TILE_M;
#endif

shared uint row_ids[TILE_M];  // ROWS for none

vec4 load_labelled(uint line, uint column) {
  return load_h(row_ids[line], column);
}

void stage(uint row, uint column, uint k) {
  STAGE_ALONG(tile_a, PITCH_A, TILE_M, load_labelled, 0, k)
  STAGE_ALONG(tile_b, PITCH_B, TILE_N, load_table, column, k)
}

// The first of this workgroup's places in the list of rows. Those of one tile of the table are
// neighbours, so that it is read from memory once.
uint first_place() {
#ifdef KEPT
  return count[1] + group() % TILES_M * TILE_M;
#else
  return group() % TILES_M * TILE_M;
#endif
}

uint first_column() {
  return group() / TILES_M * TILE_N;
}

// The place among the tile's rows, and the column, of sums[(4 * m + i) * QUADS_N + n][j].
uint place_of(uint m, uint i) {
  return 4 * (m * THREADS_M + thread_m()) + i;
}

uint column_of(uint n, uint j) {
  return first_column() + 4 * (n * THREADS_N + thread_n()) + j;
}

void compute_logits() {
  for (uint i = gl_LocalInvocationIndex; i < TILE_M; i += WORKGROUP) {
    const uint place = first_place() + i;
    row_ids[i] = ROWS;
    if (place < count[0]) {
      row_ids[i] = rows[place];
    }
  }
  barrier();
  multiply_tiles(0, first_column(), 0, WIDTH);
}
