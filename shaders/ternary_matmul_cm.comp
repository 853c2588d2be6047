#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#extension GL_KHR_shader_subgroup_shuffle : require
// ternary_matmul_cm: y = x w^T of int8 activations and each of some ternary w, on matrix units, exact;
// with ROTATED each head of TILE_N columns of those y that have TURNS is then rotated by the angles of
// its row, as by op rope. ADDED is for one w.
//
// The columns of all y are counted as if these lay side by side. Each tile belongs to one of them.
//
// x and w give their scales; their codes are in xs and ws, in panels (panels.glsl), those of x in the
// order of the words of ternary weights, those of all w below each other.
//
// With SHARED and REST it is two kernels (share.glsl). With HALVES, behind LOW, the adapter's part is
// multiplied on matrix units too (low_units.glsl); RANK is then at most 16.
//
// Reference: op ternary_matmul. INNER is a multiple of 128, HIGH and WIDE too, COLUMNS of 4, and of 128 if
// there are several w.
// Bindings:
//   0 read  x  q8[ROWS,INNER]
//   1 read  xs u32[HIGH,SIXTEENTHS,4]
//   2 read  ws u32[WIDE,STRIPS,4]
#pragma each
//   n read  w@ t2[COLUMNS@,INNER]
#ifdef ADDED
//   n write y@ f32[ROWS,COLUMNS@] over added
#else
//   n write y@ f32[ROWS,COLUMNS@]
#endif
#ifdef LOW
//   n read  low@ f32[ROWS,RANK]
//   n read  b@   f32[COLUMNS@,RANK]
#endif
#pragma end
#ifdef ADDED
//   n read  added f32[ROWS,COLUMNS0]
#endif
#ifdef ROTATED
//   n read  table f32[ROWS,TILE_N]
#endif
#ifdef SHARED
//   n write parts f32[UNITS,TILE_M,TILE_N]
#endif
#ifdef REST
//   n read  sums f32[UNITS,TILE_M,TILE_N]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint INNER = 128;
layout(constant_id = 2) const uint COLUMNS = 4;
layout(constant_id = 3) const uint TILE_M = 128;
layout(constant_id = 4) const uint TILE_N = 128;
layout(constant_id = 5) const uint WARP_M = 64;
layout(constant_id = 6) const uint WARP_N = 32;
layout(constant_id = 7) const uint SUBGROUP_SIZE = 32;
layout(constant_id = 8) const uint WORKGROUP = 256;
layout(constant_id = 9) const uint HIGH = 128;
layout(constant_id = 10) const uint WIDE = 128;
layout(constant_id = 11) const uint SIXTEENTHS = 8;  // of a row of x, 16 codes each
layout(constant_id = 12) const uint STRIPS = 2;      // of a row of w, 64 codes each
#pragma each
layout(constant_id = n) const uint COLUMNS@ = 4;
#ifdef ROTATED
layout(constant_id = n) const bool TURNS@ = true;
#endif
#pragma end
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
layout(local_size_x_id = 8) in;
layout(binding = 0, std430) readonly buffer X { int x[]; };
layout(binding = 1, std430) readonly buffer Xs { uvec4 xs[]; };
layout(binding = 2, std430) readonly buffer Ws { uvec4 ws[]; };
#include "panels.glsl"
#include "epilogue.glsl"

const uint UNIT_K = 32;
const uint PITCH_A = UNIT_K / 16 + 1;  // a row's codes and 16 bytes more, against bank conflicts
const uint SIZE_A = TILE_M * PITCH_A;
const uint PITCH_B = PITCH_A;
const uint SIZE_B = TILE_N * PITCH_B;
#define FACTOR int8_t
#define TERMS 1
#define SUM int
#define STAGED uvec4
#define STAGED_BYTES 16
#define PLACE_A(row) ((row) * PITCH_A)
#define LAYOUT_A gl_CooperativeMatrixLayoutRowMajor
#define PLACE_B(column) ((column) * PITCH_B)
#define LAYOUT_B gl_CooperativeMatrixLayoutColumnMajor
#define SUMS ivec4
#define TO_SUMS(bits) ivec4(bits)
#define TO_BITS(sums) uvec4(sums)
#define OWN_SQUARES
#include "units.glsl"

const uint TILES_N = (COLUMNS + TILE_N - 1) / TILE_N;
#include "share.glsl"

const uint PARTS_A = UNIT_K / 16;  // of a row of x, 16 codes each
const uint LOADS_A = (TILE_M * PARTS_A + WORKGROUP - 1) / WORKGROUP;
const uint LOADS_B = (TILE_N + WORKGROUP - 1) / WORKGROUP;

// Which column of the tile a place among those of b has. Rotated, a strip's two units are half a head
// apart, so that both columns of each pair are stored together.
uint column_at(uint place) {
#ifdef ROTATED
  return place / STRIP * UNIT + place % UNIT + place % STRIP / UNIT * (TILE_N / 2);
#else
  return place;
#endif
}

#ifdef ROTATED
MATRIX_F32(table, AT_table, ROWS, TILE_N)

// Rotate four columns of a head by the angles of their row. The thread that has the other columns of
// these pairs has them at the same time.
vec4 rotated(vec4 quad, uint row, uint column) {
  const vec4 other = subgroupShuffleXor(quad, UNIT / 4);
  const uint pair = column % (TILE_N / 2);
  const vec4 sines = load_table(row, TILE_N / 2 + pair);
  const float sign = column % TILE_N < TILE_N / 2 ? -1 : 1;
  return quad * load_table(row, pair) + sign * sines * other;
}
#endif

uvec4 sets_a[2 * LOADS_A];
uvec4 sets_b[LOADS_B];

// Two sets have half of each group of 128: 16 bytes of codes with, at shift 6 - 2 q (ternary.glsl), the
// weights 32 q + 16 h and on of half h; set 0 those of q = 0 and 1. Activations come in this order.
void fetch_a(uint set, uint row, uint k) {
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, TILE_M * PARTS_A)) {
      const uint sixteenth = k / 16 + item / TILE_M;
      sets_a[set * LOADS_A + i] = xs[place_in_panels(row + item % TILE_M, sixteenth, INNER / 16)];
    }
  }
}

void fetch_b(uint set, uint column, uint k) {
  if (set == 1) {  // what both sets have of the step before is staged
    [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
      const uint line = gl_LocalInvocationIndex + i * WORKGROUP;
      if (IS_ITEM(line, TILE_N)) {
        sets_b[i] = ws[place_in_panels(column + column_at(line), k / 64, INNER / 64)];
      }
    }
  }
}

// Codes 0 to 2 in the low bits of bytes as weights -1 to 1. No byte borrows from the next.
uvec4 signed_bytes(uvec4 codes) {
  return ((codes & 0x03030303) | 0x80808080) - 0x01010101 ^ 0x80808080;
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
    const uint line = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(line, TILE_N)) {
      const uint at = first + line * PITCH_B;
      staged[at] = signed_bytes(sets_b[i] >> (6 - 4 * set));
      staged[at + 1] = signed_bytes(sets_b[i] >> (4 - 4 * set));
    }
  }
}

#pragma each
layout(binding = AT_w@, std430) readonly buffer W@ { uint w@[]; };
layout(binding = AT_y@, std430) writeonly buffer Y@_quads { vec4 y@_of4[]; };

#ifdef LOW
MATRIX_F32(low@, AT_low@, ROWS, RANK)
MATRIX_F32(b@, AT_b@, COLUMNS@, RANK)
DEFINE_ADD_LOW(add_low@, load_low@, load_b@)
#endif

// Finish a square and write it. With HALVES `square` has the adapter's part of it.
void store_square@(uint row, uint apart, uint column, uvec4 bits[4], vec4 square[4]) {
  const float w_scale = uintBitsToFloat(w@[COLUMNS@ * (INNER / 16)]);
  [[unroll]] for (uint i = 0; i < 4; i++) {
    const uint line = min(row + i * apart, ROWS - 1);
    const float x_scale = intBitsToFloat(x[ROWS * (INNER / 4) + line]);
    const vec4 y = vec4(ivec4(bits[i])) / x_scale * w_scale;
#ifdef HALVES
    square[i] += y;
#else
    square[i] = y;
#endif
  }
#ifdef HALVES
#else
#ifdef LOW
  add_low@(square, row, apart, column);
#endif
#endif
  finish(square, row, apart, column);
#ifdef ROTATED
  if (TURNS@) {
    [[unroll]] for (uint i = 0; i < 4; i++) {
      square[i] = rotated(square[i], row + i * apart, column);
    }
  }
#endif
  [[unroll]] for (uint i = 0; i < 4; i++) {
    if (row + i * apart < ROWS && column < COLUMNS@) {
      y@_of4[((row + i * apart) * COLUMNS@ + column) / 4] = square[i];
    }
  }
}
#ifdef HALVES

void fetch_low@(uint row, uint column, out vec4 lows[LOW_QUADS], out vec4 ups[UP_QUADS]) {
  const uint thread = gl_LocalInvocationIndex;
  [[unroll]] for (uint i = 0; i < LOW_QUADS; i++) {
    const uint line = min(row + thread + i / 4 * WORKGROUP, ROWS - 1);
    lows[i] = i % 4 * 4 < RANK ? inside_low@(line, i % 4 * 4) : vec4(0);
  }
  [[unroll]] for (uint i = 0; i < UP_QUADS; i++) {
    const uint line = min(column + column_at(thread + i / 4 * WORKGROUP), COLUMNS@ - 1);
    ups[i] = i % 4 * 4 < RANK ? inside_b@(line, i % 4 * 4) : vec4(0);
  }
}
#endif
#pragma end

uvec4 quad_at(uint place) {
  return staged[place];
}

#ifdef HALVES
void fetch_low(uint row, uint column, out vec4 lows[LOW_QUADS], out vec4 ups[UP_QUADS]) {
#pragma each
  if (@ + 1 == MEMBERS || column < COLUMNS@) {
    fetch_low@(row, column, lows, ups);
    return;
  }
  column -= COLUMNS@;
#pragma end
}

void store_square(uint row, uint apart, uint place, uvec4 bits[4], vec4 low[4]) {
#else
void store_square(uint row, uint apart, uint place, uvec4 bits[4]) {
  vec4 low[4];
#endif
  uint column = place / TILE_N * TILE_N + column_at(place % TILE_N);
#pragma each
  if (@ + 1 == MEMBERS || column < COLUMNS@) {
    store_square@(row, apart, column, bits, low);
    return;
  }
  column -= COLUMNS@;
#pragma end
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
