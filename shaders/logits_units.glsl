// A tile of the logits h table^T on matrix units: TILE_M of the listed rows of h, TILE_N of the
// table's COLUMNS rows. Each row of h, divided by `power`, is a sum of PASSES rows of f16: what the
// first is short of it is in the second.
//
// The includer declares ROWS, WIDTH, a multiple of 32, COLUMNS and PASSES, the constants of
// units.glsl but INNER, and the operands h4, power, table8 (eight halves each), rows and count.

const uint INNER = PASSES * WIDTH;
const uint DEPTH = 32;
const uint UNIT_K = 16;
const uint PITCH_A = DEPTH / 8 + 1;  // a row's halves and 16 bytes more, against bank conflicts
const uint SIZE_A = TILE_M * PITCH_A;
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

const uint TILES_M = (ROWS + TILE_M - 1) / TILE_M;
const uint PARTS = DEPTH / 8;  // of a row, eight items each
const uint LOADS_A = TILE_M * PARTS / WORKGROUP;
const uint LOADS_B = TILE_N * PARTS / WORKGROUP;

uint own_rows[LOADS_A];  // of this thread's loads; ROWS for none
float own_powers[LOADS_A];
vec4 next_a[2 * LOADS_A];
uvec4 next_b[LOADS_B];
bool next_is_rest;

uint first_place() {
  return group() % TILES_M * TILE_M;
}

uint first_column() {
  return group() / TILES_M * TILE_N;
}

void find_rows() {
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint place = first_place() + (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    own_rows[i] = ROWS;
    own_powers[i] = 1;
    if (place < count[0]) {
      own_rows[i] = rows[place];
      own_powers[i] = power[own_rows[i]];
    }
  }
}

void fetch(uint row, uint column, uint k) {
  next_is_rest = k >= WIDTH;
  const uint begin = k % WIDTH;
  const uint part = gl_LocalInvocationIndex % PARTS;
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    next_a[2 * i] = vec4(0);
    next_a[2 * i + 1] = vec4(0);
    if (own_rows[i] < ROWS) {
      const uint at = (own_rows[i] * WIDTH + begin) / 4 + 2 * part;
      next_a[2 * i] = h4[at];
      next_a[2 * i + 1] = h4[at + 1];
    }
  }
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint line = column + (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    next_b[i] = uvec4(0);
    if (line < COLUMNS) {
      next_b[i] = table8[(line * WIDTH + begin) / 8 + part];
    }
  }
}

uvec2 to_halves(vec4 x) {
  // What f16 holds of x, cut off: NVIDIA's compiler takes what is rounded and widened for x itself.
  const vec4 most = uintBitsToFloat(floatBitsToUint(x) & 0xFFFFE000);
  const vec4 part = PASSES == 1 ? x : next_is_rest ? x - most : most;
  return uvec2(packHalf2x16(part.xy), packHalf2x16(part.zw));
}

void stage(uint at) {
  const uint part = gl_LocalInvocationIndex % PARTS;
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint line = (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    const uvec2 low = to_halves(next_a[2 * i] / own_powers[i]);
    const uvec2 high = to_halves(next_a[2 * i + 1] / own_powers[i]);
    staged[at + line * PITCH_A + part] = uvec4(low, high);
  }
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint line = (gl_LocalInvocationIndex + i * WORKGROUP) / PARTS;
    staged[at + SIZE_A + line * PITCH_B + part] = next_b[i];
  }
}

uvec4 quad_at(uint place) {
  return staged[place];
}
