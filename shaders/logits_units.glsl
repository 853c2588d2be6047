// A tile of the logits h table^T on matrix units: TILE_M of the listed rows of h, TILE_N of the
// table's COLUMNS rows. h is what listed_halves.comp gives, the sum of TERMS matrices in panels.
//
// The includer declares ROWS, HIGH, WIDTH, a multiple of 32, COLUMNS and TERMS, the constants of
// units.glsl but INNER, and the operands h8, table8 (eight halves each) and count; with KEPT also PLACES,
// and only so many rows from count[1] on are treated. What other rows get does not matter.

#define INNER WIDTH
const uint UNIT_K = 16;
const uint PITCH_A = UNIT_K / 8 + 1;  // a row's halves and 16 bytes more, against bank conflicts
const uint SIZE_A = TILE_M * PITCH_A;
const uint PITCH_B = PITCH_A;
const uint SIZE_B = TILE_N * PITCH_B;
#define FACTOR float16_t
#define SUM float
#define STAGED uvec4
#define STAGED_BYTES 16
#define PLACE_A(row) ((row) * PITCH_A)
#define LAYOUT_A gl_CooperativeMatrixLayoutRowMajor
#define PLACE_B(column) ((column) * PITCH_B)
#define LAYOUT_B gl_CooperativeMatrixLayoutColumnMajor
#include "units.glsl"
#include "index.glsl"
#include "panels.glsl"

#ifdef KEPT
const uint TILES_M = (PLACES + TILE_M - 1) / TILE_M;
#else
const uint TILES_M = (ROWS + TILE_M - 1) / TILE_M;
#endif
const uint PARTS = UNIT_K / 8;  // of a row, eight items each
const uint LOADS_A = (TILE_M * PARTS + WORKGROUP - 1) / WORKGROUP;
const uint LOADS_B = (TILE_N * PARTS + WORKGROUP - 1) / WORKGROUP;

uvec4 sets_a[2 * LOADS_A];
uvec4 sets_b[2 * LOADS_B];

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

void fetch_a(uint set, uint row, uint k) {
  const uint term = TERMS == 1 ? 0 : set;
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, TILE_M * PARTS)) {
      const uint place = place_in_panels(row + item % TILE_M, k / 8 + item / TILE_M, WIDTH / 8);
      sets_a[set * LOADS_A + i] = h8[term * HIGH * (WIDTH / 8) + place];
    }
  }
}

void fetch_b(uint set, uint column, uint k) {
  const uint part = gl_LocalInvocationIndex % PARTS;
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint line = column + (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    sets_b[set * LOADS_B + i] = table8[(min(line, COLUMNS - 1) * WIDTH + k) / 8 + part];
  }
}

void stage_a(uint first, uint set) {
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, TILE_M * PARTS)) {
      staged[first + item % TILE_M * PITCH_A + item / TILE_M] = sets_a[set * LOADS_A + i];
    }
  }
}

void stage_b(uint first, uint set) {
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, TILE_N * PARTS)) {
      staged[first + item / PARTS * PITCH_B + item % PARTS] = sets_b[set * LOADS_B + i];
    }
  }
}

uvec4 quad_at(uint place) {
  return staged[place];
}
