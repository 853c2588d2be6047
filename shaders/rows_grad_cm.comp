#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
// rows_grad_cm: dh[rows[i]] += dz[i] table on matrix units, with dz as logits_grad_cm scales it; with
// PARTED what rows_grad_f16 computes then, of dz as it is, which is in panels (panels.glsl).
//
// Reference: op linear_cross_entropy_grad, the last step for a part of the table. COLUMNS is a
// multiple of 32, WIDTH of 8.
// Bindings:
#ifdef PARTED
//   0 read   dz     f16[HIGH,COLUMNS]
//   1 read   table  f16[COLUMNS,WIDTH]
//   2 read   count  u32[2]
//   3 write  y      f32[PARTS,PLACES,WIDTH]
#else
//   0 read   dz     f16[ROWS,COLUMNS]
//   1 read   table  f16[COLUMNS,WIDTH]
//   2 read   count  u32[1]
//   3 read   rows   u32[ROWS]
//   4 read   spread f32[ROWS]
//   5 read   peak   f32[ROWS]
//   6 update dh     f32[ROWS,WIDTH]
#endif
#ifdef PARTED
layout(constant_id = 0) const uint PLACES = 1;
#else
layout(constant_id = 0) const uint ROWS = 1;
#endif
layout(constant_id = 1) const uint WIDTH = 8;
layout(constant_id = 2) const uint COLUMNS = 32;
layout(constant_id = 3) const uint TILE_M = 128;
layout(constant_id = 4) const uint TILE_N = 128;
layout(constant_id = 5) const uint WARP_M = 64;
layout(constant_id = 6) const uint WARP_N = 32;
layout(constant_id = 7) const uint SUBGROUP_SIZE = 32;
layout(constant_id = 8) const uint WORKGROUP = 256;
#ifdef PARTED
layout(constant_id = 9) const uint PARTS = 1;
layout(constant_id = 10) const uint HIGH = 128;
#endif
layout(local_size_x_id = 8) in;
layout(binding = 0, std430) readonly buffer Dz8 { uvec4 dz8[]; };
layout(binding = 1, std430) readonly buffer Table8 { uvec4 table8[]; };
layout(binding = 2, std430) readonly buffer Count { uint count[]; };
#ifdef PARTED
layout(binding = 3, std430) writeonly buffer Y4 { vec4 y4[]; };
#else
layout(binding = 3, std430) readonly buffer Rows { uint rows[]; };
layout(binding = 4, std430) readonly buffer Spread { float spread[]; };
layout(binding = 5, std430) readonly buffer Peak { float peak[]; };
layout(binding = 6, std430) buffer Dh4 { vec4 dh4[]; };
#endif

#define INNER COLUMNS
#ifdef PARTED
#define ROWS PLACES
#endif
const uint UNIT_K = 16;
const uint PITCH_A = UNIT_K / 8 + 1;  // a row's halves and 16 bytes more, against bank conflicts
const uint SIZE_A = TILE_M * PITCH_A;
const uint PITCH_B = TILE_N / 8 + 1;
const uint SIZE_B = UNIT_K * PITCH_B;
#define FACTOR float16_t
#define TERMS 1
#define SUM float
#define STAGED uvec4
#define STAGED_BYTES 16
#define PLACE_A(row) ((row) * PITCH_A)
#define LAYOUT_A gl_CooperativeMatrixLayoutRowMajor
#define PLACE_B(column) ((column) / 8)
#define LAYOUT_B gl_CooperativeMatrixLayoutRowMajor
#include "units.glsl"
#include "index.glsl"
#include "panels.glsl"

const uint TILES_N = (WIDTH + TILE_N - 1) / TILE_N;
const uint PARTS_A = UNIT_K / 8;  // of a row, eight items each
const uint LOADS_A = (TILE_M * PARTS_A + WORKGROUP - 1) / WORKGROUP;
const uint PARTS_B = TILE_N / 8;
const uint LOADS_B = (UNIT_K * PARTS_B + WORKGROUP - 1) / WORKGROUP;

uvec4 sets_a[2 * LOADS_A];
uvec4 sets_b[2 * LOADS_B];

void fetch_a(uint set, uint row, uint k) {
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, TILE_M * PARTS_A)) {
#ifdef PARTED
      const uint eighth = k / 8 + item / TILE_M;
      const uint at = place_in_panels(row + item % TILE_M, eighth, COLUMNS / 8);
#else
      const uint at = (min(row + item / PARTS_A, ROWS - 1) * COLUMNS + k) / 8 + item % PARTS_A;
#endif
      sets_a[set * LOADS_A + i] = dz8[at];
    }
  }
}

void fetch_b(uint set, uint column, uint k) {
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    const uint line = item / PARTS_B;
    const uint at = column + item % PARTS_B * 8;
    if (IS_ITEM(item, UNIT_K * PARTS_B)) {
      sets_b[set * LOADS_B + i] = table8[((k + line) * WIDTH + min(at, WIDTH - 8)) / 8];
    }
  }
}

void stage_a(uint first, uint set) {
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, TILE_M * PARTS_A)) {
#ifdef PARTED
      const uint at = item % TILE_M * PITCH_A + item / TILE_M;
#else
      const uint at = item / PARTS_A * PITCH_A + item % PARTS_A;
#endif
      staged[first + at] = sets_a[set * LOADS_A + i];
    }
  }
}

void stage_b(uint first, uint set) {
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, UNIT_K * PARTS_B)) {
      const uint line = first + item / PARTS_B * PITCH_B;
      staged[line + item % PARTS_B] = sets_b[set * LOADS_B + i];
    }
  }
}

uvec4 quad_at(uint place) {
  return staged[place];
}

#ifdef PARTED
const uint TILES_M = (PLACES + TILE_M - 1) / TILE_M;
const uint PART = (COLUMNS + PARTS * DEPTH - 1) / (PARTS * DEPTH) * DEPTH;

uint part() {
  return group() / (TILES_M * TILES_N);
}

void store_quad(uint place, uint column, uvec4 bits) {
  if (place < PLACES && column < WIDTH) {
    y4[((part() * PLACES + place) * WIDTH + column) / 4] = uintBitsToFloat(bits);
  }
}

void main() {
  const uint place = group() % TILES_M * TILE_M;
  const uint column = group() / TILES_M % TILES_N * TILE_N;
  if (part() < PARTS && count[1] + place < count[0]) {
    multiply_tile(place, column, part() * PART, min((part() + 1) * PART, COLUMNS));
  }
}
#else
#include "gradient_scale.glsl"

void store_quad(uint place, uint column, uvec4 bits) {
  if (place < count[0] && column < WIDTH) {
    const uint row = rows[place];
    dh4[(row * WIDTH + column) / 4] += uintBitsToFloat(bits) * (gradient_scale(row) / LARGEST);
  }
}

void main() {
  const uint place = group() / TILES_N * TILE_M;
  const uint column = group() % TILES_N * TILE_N;
  if (place < count[0]) {
    multiply_tile(place, column);
  }
}
#endif
