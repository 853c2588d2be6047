// A tile of the logits h table^T on matrix units: TILE_M of the listed rows of h, TILE_N of the
// table's COLUMNS rows. h is what listed_halves.comp gives, the sum of TERMS matrices.
//
// The includer declares ROWS, WIDTH, a multiple of 32, COLUMNS and TERMS, the constants of units.glsl
// but INNER, and the operands h8, table8 (eight halves each) and count; with KEPT also PLACES, and only
// so many rows from count[1] on are treated.

#define INNER WIDTH
const uint UNIT_K = 16;
const uint PITCH_A = UNIT_K / 8 + 1;  // a row's halves and 16 bytes more, against bank conflicts
const uint SIZE_A = TERMS * TILE_M * PITCH_A;
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

#ifdef KEPT
const uint TILES_M = (PLACES + TILE_M - 1) / TILE_M;
#else
const uint TILES_M = (ROWS + TILE_M - 1) / TILE_M;
#endif
const uint PARTS = UNIT_K / 8;  // of a row, eight items each
const uint LOADS_A = (TERMS * TILE_M * PARTS + WORKGROUP - 1) / WORKGROUP;
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

void fetch(uint set, uint row, uint column, uint k) {
  const uint part = gl_LocalInvocationIndex % PARTS;
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint line = (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    const uint place = row + line % TILE_M;
    sets_a[set * LOADS_A + i] = uvec4(0);
    if (line < TERMS * TILE_M && place < count[0]) {
      sets_a[set * LOADS_A + i] = h8[((line / TILE_M * ROWS + place) * WIDTH + k) / 8 + part];
    }
  }
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint line = (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    sets_b[set * LOADS_B + i] = uvec4(0);
    if (line < TILE_N && column + line < COLUMNS) {
      sets_b[set * LOADS_B + i] = table8[((column + line) * WIDTH + k) / 8 + part];
    }
  }
}

void stage(uint half_at, uint set) {
  const uint part = gl_LocalInvocationIndex % PARTS;
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint line = (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    if (line < TERMS * TILE_M) {
      staged[half_at + line * PITCH_A + part] = sets_a[set * LOADS_A + i];
    }
  }
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint line = (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    if (line < TILE_N) {
      staged[half_at + SIZE_A + line * PITCH_B + part] = sets_b[set * LOADS_B + i];
    }
  }
}

uvec4 quad_at(uint place) {
  return staged[place];
}
