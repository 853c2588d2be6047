#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
// ternary_matmul_t_cm: y = the sum of x w over some pairs of x and ternary weights, on matrix units. h
// has all x side by side as f16 in panels, each row divided by its top (row_halves); they are added in
// f32. One sum runs through the inner axes of all pairs. With SHARED and REST it is two kernels
// (share.glsl). With JOINED, behind LOW, the adapters' parts join the sums, their factors as two halves
// each; RANK is then at most 16, top large enough for low (row_halves), and where b is beyond the range of
// f16, 65,504, results are NaN.
//
// Reference: op ternary_matmul_t. Each INNER is a multiple of 32, COLUMNS of 128, HIGH of 128.
// Bindings:
#ifdef ADDED
//   0 write y f32[ROWS,COLUMNS] over added
#else
//   0 write y f32[ROWS,COLUMNS]
#endif
#ifdef ADDED
//   n read  added f32[ROWS,COLUMNS]
#endif
#ifdef SHARED
//   n write parts f32[UNITS,TILE_M,TILE_N]
#endif
#ifdef REST
//   n read  sums f32[UNITS,TILE_M,TILE_N]
#endif
//   n read  h    f16[HIGH,INNER]
//   n read  top  f32[ROWS]
//   n read  ws   u32[GROUPS,INNER,8]
#ifdef LOW
#pragma each
//   n read  low@ f32[ROWS,RANK]
//   n read  b@   f32[RANK,COLUMNS]
#pragma end
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 128;
layout(constant_id = 2) const uint TILE_M = 128;
layout(constant_id = 3) const uint TILE_N = 128;
layout(constant_id = 4) const uint WARP_M = 64;
layout(constant_id = 5) const uint WARP_N = 32;
layout(constant_id = 6) const uint SUBGROUP_SIZE = 32;
layout(constant_id = 7) const uint WORKGROUP = 256;
layout(constant_id = 8) const uint INNER = 32;
layout(constant_id = 9) const uint HIGH = 128;
layout(constant_id = 10) const uint GROUPS = 1;  // of 128 columns
#ifdef LOW
layout(constant_id = n) const uint RANK = 1;
#endif
#ifdef SHARED
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
layout(binding = AT_ws, std430) readonly buffer Ws { uint ws[]; };
layout(binding = AT_h, std430) readonly buffer H { uvec4 h[]; };
layout(binding = AT_top, std430) readonly buffer Top { float top[]; };
#define ACROSS
#include "panels.glsl"
#include "epilogue.glsl"
#ifdef JOINED
#include "halves.glsl"
#include "power.glsl"
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
#define SUMS vec4
#define TO_SUMS(bits) uintBitsToFloat(bits)
#define TO_BITS(sums) floatBitsToUint(sums)
#define OWN_SQUARES
#include "units.glsl"

const uint TILES_N = COLUMNS / TILE_N;
#include "share.glsl"

const uint PARTS_A = UNIT_K / 8;  // of a row of h, eight items each
const uint LOADS_A = (TILE_M * PARTS_A + WORKGROUP - 1) / WORKGROUP;
const uint WORDS = TILE_N / 16;   // of a row of w, 16 codes each
const uint LOADS_B = (UNIT_K * WORDS + WORKGROUP - 1) / WORKGROUP;

uvec4 sets_a[2 * LOADS_A];
uint sets_b[2 * LOADS_B];

#ifdef LOW
#pragma each
MATRIX_F32(low@, AT_low@, ROWS, RANK)
MATRIX_F32(b@, AT_b@, RANK, COLUMNS)
DEFINE_ADD_LOW(add_low@, load_low@, load_b@)
#pragma end
#endif

void fetch_a(uint set, uint row, uint k) {
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, TILE_M * PARTS_A)) {
      const uint eighth = k / 8 + item / TILE_M;
      sets_a[set * LOADS_A + i] = h[place_in_panels(row + item % TILE_M, eighth, INNER / 8)];
    }
  }
}

void fetch_b(uint set, uint column, uint k) {
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, UNIT_K * WORDS)) {
      const uint line = column / TILE_N * INNER + k;
      sets_b[set * LOADS_B + i] = ws[line * WORDS + item];
    }
  }
}

// At shift 6 - 2 q word j of a group has the weights 32 q + 4 j and on (ternary.glsl). Its places in
// shared memory are such that a thread writes 16 bytes at once, and eight threads 128 side by side:
// q / 2, then j, then q % 2, then the four in the order of `quick_halves`.
uint column_at(uint place) {
  const uint q = place / 64 * 2 + place / 4 % 2;
  return 32 * q + place / 8 % 8 * 4;
}

// Four codes in the low bits of bytes as f16, in the order 0, 2, 1, 3: with the bits of 1024 each is
// 1024 more.
uvec2 quick_halves(uint codes) {
  const f16vec2 even = unpackFloat2x16(codes & 0x00030003 | 0x64006400) - f16vec2(1025);
  const f16vec2 odd = unpackFloat2x16(codes >> 8 & 0x00030003 | 0x64006400) - f16vec2(1025);
  return uvec2(packFloat2x16(even), packFloat2x16(odd));
}

void stage_a(uint first, uint set) {
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, TILE_M * PARTS_A)) {
      staged[first + item % TILE_M * PITCH_A + item / TILE_M] = sets_a[set * LOADS_A + i];
    }
  }
}

void stage_b(uint first, uint set) {
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    const uint word = item % WORDS;
    const uint line = first + item / WORDS * PITCH_B + word / 8 * 16 + word % 8;
    if (IS_ITEM(item, UNIT_K * WORDS)) {
      const uint codes = sets_b[set * LOADS_B + i];
      staged[line] = uvec4(quick_halves(codes >> 6), quick_halves(codes >> 4));
      staged[line + 8] = uvec4(quick_halves(codes >> 2), quick_halves(codes));
    }
  }
}

#ifdef JOINED
void stage_low(uint at, vec4 a, vec4 b) {
  const vec4 high_a = rounded(a), high_b = rounded(b);
  staged[half_of_a(0) + at] = uvec4(to_halves(high_a), to_halves(high_b));
  staged[half_of_a(1) + at] = uvec4(to_halves(a - high_a), to_halves(b - high_b));
}

// Four numbers of b, whose places are in the order of `quick_halves`.
void stage_up(uint at, uint half_of_16, vec4 x) {
  const vec4 ordered = x.xzyw, high = rounded(ordered);
  const uvec2 halves[2] = {to_halves(high), to_halves(ordered - high)};
  [[unroll]] for (uint i = 0; i < 2; i++) {
    staged[half_of_b(i) + at][2 * half_of_16] = halves[i].x;
    staged[half_of_b(i) + at][2 * half_of_16 + 1] = halves[i].y;
  }
}

#pragma each
void stage_adapter@(uint row, uint column) {
  [[unroll]] for (uint i = 0; i < (TILE_M + WORKGROUP - 1) / WORKGROUP; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    const uint line = min(row + item, ROWS - 1);
    const float inverse = inverse_of(top[line]);
    vec4 quads[4];
    [[unroll]] for (uint k = 0; k < 4; k++) {
      quads[k] = 4 * k < RANK ? inverse * inside_low@(line, 4 * k) : vec4(0);
    }
    if (IS_ITEM(item, TILE_M)) {
      stage_low(item * PITCH_A, quads[0], quads[1]);
      stage_low(item * PITCH_A + 1, quads[2], quads[3]);
    }
  }
  [[unroll]] for (uint i = 0; i < (UNIT_K * TILE_N / 4 + WORKGROUP - 1) / WORKGROUP; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    const uint k = item / (TILE_N / 4), quad = item % (TILE_N / 4);
    const vec4 x = inside_b@(min(k, RANK - 1), column + 4 * quad);
    // Quad 8 q + j of the tile: see column_at.
    const uint q = quad / 8, j = quad % 8;
    if (IS_ITEM(item, UNIT_K * TILE_N / 4)) {
      stage_up(k * PITCH_B + q / 2 * 8 + j, q % 2, k < RANK ? x : vec4(0));
    }
  }
}
#pragma end

void stage_adapter(uint adapter, uint row, uint column) {
#pragma each
  if (adapter == @) {
    stage_adapter@(row, column);
  }
#pragma end
}
#endif

uvec4 quad_at(uint place) {
  return staged[place];
}

void store_square(uint row, uint apart, uint place, uvec4 bits[4]) {
  const uint column = place / 128 * 128 + column_at(place % 128);
  vec4 square[4];
  [[unroll]] for (uint i = 0; i < 4; i++) {
    square[i] = uintBitsToFloat(bits[i]).xzyw * top[min(row + i * apart, ROWS - 1)];
  }
#ifdef JOINED
#else
#ifdef LOW
#pragma each
  add_low@(square, row, apart, column);
#pragma end
#endif
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
