#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
// ternary_matmul_t_cm: y = the sum of x w over some pairs of x and ternary weights, on matrix units. h
// has all x side by side as f16, each row divided by its top (row_halves); they are added in f32. One
// sum runs through the inner axes of all pairs. With SPLIT and REST it is two kernels (share.glsl).
//
// Reference: op ternary_matmul_t. Each INNER is a multiple of 32, COLUMNS of 128.
// Bindings:
#ifdef ADDED
//   0 write y f32[ROWS,COLUMNS] over added
#else
//   0 write y f32[ROWS,COLUMNS]
#endif
#ifdef ADDED
//   n read  added f32[ROWS,COLUMNS]
#endif
#ifdef SPLIT
//   n write parts f32[UNITS,TILE_M,TILE_N]
#endif
#ifdef REST
//   n read  sums f32[UNITS,TILE_M,TILE_N]
#endif
//   n read  h    f16[ROWS,INNER]
//   n read  top  f32[ROWS]
#pragma each
//   n read  w@   t2[INNER@,COLUMNS]
#ifdef LOW
//   n read  low@ f32[ROWS,RANK]
//   n read  b@   f32[RANK,COLUMNS]
#endif
#pragma end
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 128;
layout(constant_id = 2) const uint TILE_M = 128;
layout(constant_id = 3) const uint TILE_N = 128;
layout(constant_id = 4) const uint WARP_M = 64;
layout(constant_id = 5) const uint WARP_N = 32;
layout(constant_id = 6) const uint SUBGROUP_SIZE = 32;
layout(constant_id = 7) const uint WORKGROUP = 256;
layout(constant_id = 8) const uint INNER = 32;
#pragma each
layout(constant_id = n) const uint INNER@ = 32;
#pragma end
#ifdef LOW
layout(constant_id = n) const uint RANK = 1;
#endif
#ifdef SPLIT
layout(constant_id = n) const uint WHOLE = 0;
layout(constant_id = n) const uint PARTS = 1;
layout(constant_id = n) const uint UNITS = 1;
#endif
#ifdef REST
layout(constant_id = n) const uint WHOLE = 0;
layout(constant_id = n) const uint PARTS = 1;
layout(constant_id = n) const uint UNITS = 1;
#endif
layout(local_size_x_id = 7) in;
layout(binding = 0, std430) writeonly buffer Y4 { vec4 y4[]; };
layout(binding = AT_h, std430) readonly buffer H { uvec4 h[]; };
layout(binding = AT_top, std430) readonly buffer Top { float top[]; };
#define ACROSS
#include "epilogue.glsl"
#include "halves.glsl"

const uint DEPTH = 32;
const uint UNIT_K = 16;
const uint PITCH_A = DEPTH / 8 + 1;  // a row's halves and 16 bytes more, against bank conflicts
const uint SIZE_A = TILE_M * PITCH_A;
const uint PITCH_B = TILE_N / 8 + 1;
const uint SIZE_B = DEPTH * PITCH_B;
#define FACTOR float16_t
#define TERMS 1
#define SUM float
#define STAGED uvec4
#define STAGED_BYTES 16
#define PLACE_A(row, k) ((row) * PITCH_A + (k) / 8)
#define LAYOUT_A gl_CooperativeMatrixLayoutRowMajor
#define PLACE_B(column, k) ((k) * PITCH_B + (column) / 8)
#define LAYOUT_B gl_CooperativeMatrixLayoutRowMajor
#define SUMS vec4
#define TO_SUMS(bits) uintBitsToFloat(bits)
#define TO_BITS(sums) floatBitsToUint(sums)
#define OWN_SQUARES
#include "units.glsl"

const uint TILES_N = COLUMNS / TILE_N;
#include "share.glsl"

const uint PARTS_A = DEPTH / 8;  // of a row of h, eight items each
const uint LOADS_A = TILE_M * PARTS_A / WORKGROUP;
const uint PARTS_B = TILE_N / 32;  // of a row of w, two words of codes each
const uint LOADS_B = (DEPTH * PARTS_B + WORKGROUP - 1) / WORKGROUP;

uvec4 next_a[LOADS_A];
uvec2 next_b[LOADS_B];

#pragma each
layout(binding = AT_w@, std430) readonly buffer W@ { uvec2 w@[]; };

void fetch_b@(uint column, uint k) {
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (item < DEPTH * PARTS_B) {
      const uint line = k + item / PARTS_B;
      next_b[i] = w@[(line * COLUMNS + column) / 32 + item % PARTS_B];
    }
  }
}

#ifdef LOW
MATRIX_F32(low@, AT_low@, ROWS, RANK)
MATRIX_F32(b@, AT_b@, RANK, COLUMNS)
DEFINE_ADD_LOW(add_low@, load_low@, load_b@)
#endif
#pragma end

void fetch(uint row, uint column, uint k) {
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    const uint line = row + item / PARTS_A;
    next_a[i] = uvec4(0);
    if (line < ROWS) {
      next_a[i] = h[(line * INNER + k) / 8 + item % PARTS_A];
    }
  }
#pragma each
  if (k < INNER@) {
    fetch_b@(column, k);
    return;
  }
  k -= INNER@;
#pragma end
}

void stage() {
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    staged[item / PARTS_A * PITCH_A + item % PARTS_A] = next_a[i];
  }
  // At shift 6 - 2 q a word of a group has the weights 32 q + 4 word and on (ternary.glsl).
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    const uint part = item % PARTS_B;
    const uint line = SIZE_A + item / PARTS_B * PITCH_B + part / 4 * 16 + part % 4;
    if (item < DEPTH * PARTS_B) {
      [[unroll]] for (uint q = 0; q < 4; q++) {
        const uvec2 codes = next_b[i] >> (6 - 2 * q);
        staged[line + 4 * q] = uvec4(weights_of(codes.x), weights_of(codes.y));
      }
    }
  }
}

uvec4 quad_at(uint place) {
  return staged[place];
}

void store_square(uint row, uint apart, uint column, uvec4 bits[4]) {
  vec4 square[4];
  [[unroll]] for (uint i = 0; i < 4; i++) {
    square[i] = uintBitsToFloat(bits[i]) * top[min(row + i * apart, ROWS - 1)];
  }
#ifdef LOW
#pragma each
  add_low@(square, row, apart, column);
#pragma end
#endif
  finish(square, row, apart, column);
  [[unroll]] for (uint i = 0; i < 4; i++) {
    if (row + i * apart < ROWS) {
      y4[((row + i * apart) * COLUMNS + column) / 4] = square[i];
    }
  }
}

void main() {
#ifdef REST
  finish_strip();
#else
  const Work work = own_work();
  if (work.row < ROWS) {
    multiply_tile(work.row, work.column, work.begin, work.end);
  }
#endif
}
