// A tile of the logits h table^T on matrix units: TILE_M of the listed rows of h, TILE_N of the
// table's COLUMNS rows. h is what listed_halves.comp gives, the sum of TERMS matrices.
//
// The includer declares ROWS, WIDTH, a multiple of 32, COLUMNS and TERMS, the constants of units.glsl
// but INNER, and the operands h8, table8 (eight halves each) and count; with KEPT also PLACES, and only
// so many rows from count[1] on are treated.

#define INNER WIDTH
const uint DEPTH = 32;
const uint UNIT_K = 16;
const uint PITCH_A = DEPTH / 8 + 1;  // a row's halves and 16 bytes more, against bank conflicts
const uint SIZE_A = TERMS * TILE_M * PITCH_A;
const uint PITCH_B = DEPTH / 8 + 1;
const uint SIZE_B = TILE_N * PITCH_B;
#define FACTOR float16_t
#define SUM float
#define STAGED uvec4
#define STAGED_BYTES 16
#define PLACE_A(row, k) ((row) * PITCH_A + (k) / 8)
#define LAYOUT_A gl_CooperativeMatrixLayoutRowMajor
#define PLACE_B(column, k) ((column) * PITCH_B + (k) / 8)
#define LAYOUT_B gl_CooperativeMatrixLayoutColumnMajor
#include "units.glsl"
#include "index.glsl"

#ifdef KEPT
const uint TILES_M = (PLACES + TILE_M - 1) / TILE_M;
#else
const uint TILES_M = (ROWS + TILE_M - 1) / TILE_M;
#endif
const uint PARTS = DEPTH / 8;  // of a row, eight items each
const uint LOADS_A = TERMS * TILE_M * PARTS / WORKGROUP;
const uint LOADS_B = TILE_N * PARTS / WORKGROUP;

uvec4 next_a[LOADS_A];
uvec4 next_b[LOADS_B];

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

void fetch(uint row, uint column, uint k) {
  const uint part = gl_LocalInvocationIndex % PARTS;
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint line = (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    const uint place = row + line % TILE_M;
    next_a[i] = uvec4(0);
    if (place < count[0]) {
      next_a[i] = h8[((line / TILE_M * ROWS + place) * WIDTH + k) / 8 + part];
    }
  }
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint line = column + (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    next_b[i] = uvec4(0);
    if (line < COLUMNS) {
      next_b[i] = table8[(line * WIDTH + k) / 8 + part];
    }
  }
}

void stage() {
  const uint part = gl_LocalInvocationIndex % PARTS;
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint line = (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    staged[line * PITCH_A + part] = next_a[i];
  }
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint line = (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    staged[SIZE_A + line * PITCH_B + part] = next_b[i];
  }
}

uvec4 quad_at(uint place) {
  return staged[place];
}
