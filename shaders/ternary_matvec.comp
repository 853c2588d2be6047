#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// ternary_matvec: y = x w^T of a few rows of int8 activations, for each of some ternary w.
//
//   DOT       with packed dot products
//   SHUFFLED  sums go from lane to lane, in subgroups of SUBGROUP_SIZE
//   NORMED    x is plain: its norm is taken and quantized first, as ops rms_norm and quantize do
//   LOW       adds low b^T, the part of an adapter
//   ADDED     adds a residual
//   GATED     y = act(x w0^T) (x w1^T), act being silu or squared_relu
//   ROTATED   op rope on those y that have TURNS
//   KEPT      those y that have KEEPS are caches, whose rows `slots` are written as op write_rows does
//
// Reference: op ternary_matmul, and these. INNER is a multiple of 128.
// Bindings:
#ifdef NORMED
//   n read x    f32[ROWS,INNER]
//   n read norm f32[INNER]
#else
//   n read x q8[ROWS,INNER]
#endif
#pragma each
//   n read w@ t2[COLUMNS@,INNER]
#ifdef LOW
//   n read low@ f32[ROWS,RANK]
//   n read b@   f32[COLUMNS@,RANK]
#endif
#pragma end
#ifdef ADDED
//   n read  added f32[ROWS,COLUMNS0]
//   n write y0    f32[ROWS,COLUMNS0] over added
#else
#ifdef GATED
//   n write y0 f32[ROWS,COLUMNS0]
#else
#pragma each
#ifdef KEPT
//   n update y@ f32[PLACES@,COLUMNS@]
#else
//   n write y@ f32[ROWS,COLUMNS@]
#endif
#pragma end
#endif
#endif
#ifdef ROTATED
//   n read table f32[ROWS,WIDTH]
#endif
#ifdef KEPT
//   n read slots i32[ROWS]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint INNER = 128;
layout(constant_id = 2) const uint LANES = 8;
layout(constant_id = 3) const uint WORKGROUP = 128;
#pragma each
layout(constant_id = n) const uint COLUMNS@ = 1;
#ifdef ROTATED
layout(constant_id = n) const bool TURNS@ = true;
#endif
#ifdef KEPT
layout(constant_id = n) const uint PLACES@ = 1;
layout(constant_id = n) const bool KEEPS@ = true;
#endif
#pragma end
#ifdef SHUFFLED
layout(constant_id = n) const uint SUBGROUP_SIZE = 32;
#endif
#ifdef NORMED
layout(constant_id = n) const float EPS = 1e-5;
#endif
#ifdef LOW
layout(constant_id = n) const uint RANK = 1;
#endif
#ifdef GATED
layout(constant_id = n) const bool SILU = false;
#endif
#ifdef ROTATED
layout(constant_id = n) const uint WIDTH = 2;
#endif
layout(local_size_x_id = 3) in;
#ifdef DOT
#include "dot4_packed.glsl"
#else
#include "dot4.glsl"
#endif
#ifdef NORMED
#include "codes_normed.glsl"
#else
#include "codes.glsl"
#endif
#ifdef LOW
#define SUMS (4 * ROWS)
#else
#define SUMS (2 * ROWS)
#endif
#include "lanes.glsl"
#include "matrix.glsl"
#include "activations.glsl"

// LANES threads share two sums of each row: those of two columns, which are a pair that is rotated,
// or of gate and up. Each takes strips of 64 codes in 16 bytes; all it needs of the weights is asked
// for before anything else is done, BATCH strips of each column at a time. Codes are used as they are,
// 0 to 2; the sum of the activations is taken off, which makes them -1 to 1. Sums are whole numbers
// below 2^24, so floats hold them exactly.

const uint EACH = (STRIPS + LANES - 1) / LANES;
const uint BATCH = EACH < 8 ? EACH : 8;
const uint ITEMS = WORKGROUP / LANES;
const int ONES = 0x01010101;

uvec4 codes[2][BATCH];
float w_scales[2];

#pragma each
layout(binding = AT_w@, std430) readonly buffer W@ { uint w@[]; };
layout(binding = AT_w@, std430) readonly buffer Quads@ { uvec4 w@_of4[]; };

// What is past an end is read as the last, so that no load waits; `add_strips` leaves it out.
void fetch@(uint which, uint column, uint first) {
  const uint begin = min(column, COLUMNS@ - 1) * STRIPS;
  [[unroll]] for (uint i = 0; i < BATCH; i++) {
    codes[which][i] = w@_of4[begin + min(first + i * LANES, STRIPS - 1)];
  }
  w_scales[which] = uintBitsToFloat(w@[COLUMNS@ * INNER / 16]);
}

#ifdef LOW
MATRIX_F32(low@, AT_low@, ROWS, RANK)
MATRIX_F32(b@, AT_b@, COLUMNS@, RANK)

// This lane's part of low b^T: its quads of the rank.
void add_low@(uint which, uint column) {
  for (uint k = 4 * lane(); k < RANK; k += 4 * LANES) {
    const vec4 b = load_b@(column, k);
    [[unroll]] for (uint row = 0; row < ROWS; row++) {
      sums[2 * ROWS + 2 * row + which] += dot(load_low@(row, k), b);
    }
  }
}
#endif
#pragma end

#ifdef GATED
layout(binding = AT_y0, std430) writeonly buffer Y { float y0[]; };
#define ITEMS_OF_0 COLUMNS0
#else
#pragma each
#ifdef KEPT
layout(binding = AT_y@, std430) buffer Y@ { float y@[]; };
#else
layout(binding = AT_y@, std430) writeonly buffer Y@ { float y@[]; };
#endif
const uint ITEMS_OF_@ = (COLUMNS@ + 1) / 2;
#pragma end
#endif
#ifdef ADDED
layout(binding = AT_added, std430) readonly buffer Added { float added[]; };
#endif
#ifdef ROTATED
layout(binding = AT_table, std430) readonly buffer Table { float table[]; };
#endif
#ifdef KEPT
layout(binding = AT_slots, std430) readonly buffer Slots { int slots[]; };

// The row of a cache that a row goes to; none if a later row goes there.
uint place_of(uint row) {
  bool superseded = false;
  for (uint later = row + 1; later < ROWS; later++) {
    superseded = superseded || slots[later] == slots[row];
  }
  return superseded ? 0xffffffff : uint(slots[row]);
}
#endif

// The two columns of an item of a member, or twice the one of gate and up.
uvec2 columns_of(uint item, bool turns) {
#ifdef GATED
  return uvec2(item);
#else
#ifdef ROTATED
  if (turns) {
    const uint first = item / (WIDTH / 2) * WIDTH + item % (WIDTH / 2);
    return uvec2(first, first + WIDTH / 2);
  }
#endif
  return uvec2(2 * item, 2 * item + 1);
#endif
}

void add_strips(uint first) {
  [[unroll]] for (uint i = 0; i < BATCH; i++) {
    const uint strip = first + i * LANES;
    if (strip < STRIPS) {
      [[unroll]] for (uint row = 0; row < ROWS; row++) {
        int of_two[2] = {0, 0};
        int total = 0;
        [[unroll]] for (uint k = 0; k < 4; k++) {
          const ivec4 a = quad_of_x(row, strip, k);
          total += dot4(ONES, a.x) + dot4(ONES, a.y) + dot4(ONES, a.z) + dot4(ONES, a.w);
          [[unroll]] for (uint which = 0; which < 2; which++) {
            const ivec4 c = ivec4((codes[which][i] >> (6 - 2 * k)) & 0x03030303);
            of_two[which] += dot4(c.x, a.x) + dot4(c.y, a.y) + dot4(c.z, a.z) + dot4(c.w, a.w);
          }
        }
        [[unroll]] for (uint which = 0; which < 2; which++) {
          sums[2 * row + which] += float(of_two[which] - total);
        }
      }
    }
  }
}

// Both sums of a row, finished but for what the options at the end do.
vec2 finished(uint row) {
  vec2 y;
  [[unroll]] for (uint which = 0; which < 2; which++) {
    y[which] = sums[2 * row + which] / scale_of_x(row) * w_scales[which];
#ifdef LOW
    y[which] += sums[2 * ROWS + 2 * row + which];
#endif
  }
  return y;
}

#ifdef ROTATED
vec2 rotated(vec2 y, uint row, uint column) {
  const uint at = row * WIDTH + column % WIDTH;
  const float cosine = table[at], sine = table[at + WIDTH / 2];
  return vec2(y.x * cosine - y.y * sine, y.y * cosine + y.x * sine);
}
#endif

#ifdef GATED
void finish0(uint item, uint row, uvec2 columns) {
  const vec2 y = finished(row);
  const vec4 gate = vec4(y.x);
  y0[row * COLUMNS0 + item] = (SILU ? silu(gate) : squared_relu(gate)).x * y.y;
}
#else
#pragma each
void finish@(uint item, uint row, uvec2 columns) {
  vec2 y = finished(row);
#ifdef ADDED
  [[unroll]] for (uint which = 0; which < 2; which++) {
    if (columns[which] < COLUMNS@) {
      y[which] += added[row * COLUMNS@ + columns[which]];
    }
  }
#endif
#ifdef ROTATED
  if (TURNS@) {
    y = rotated(y, row, columns.x);
  }
#endif
#ifdef KEPT
  const uint place = KEEPS@ ? place_of(row) : row;
  if (place >= PLACES@) {
    return;
  }
#else
  const uint place = row;
#endif
  [[unroll]] for (uint which = 0; which < 2; which++) {
    if (columns[which] < COLUMNS@) {
      y@[place * COLUMNS@ + columns[which]] = y[which];
    }
  }
}
#pragma end
#endif

void fetch(uint member, uvec2 columns, uint first) {
#ifdef GATED
  fetch0(0, columns.x, first);
  fetch1(1, columns.y, first);
#else
#pragma each
  if (member == @) {
    fetch@(0, columns.x, first);
    fetch@(1, columns.y, first);
  }
#pragma end
#endif
}

void main() {
  uint member = 0, item = group() * ITEMS + gl_LocalInvocationIndex / LANES;
  bool turns = false, is_mine = false;
#ifdef GATED
  is_mine = item < ITEMS_OF_0;
#else
  // Each member's items begin with a workgroup.
  uint begin = 0;
#pragma each
  const uint groups@ = (ITEMS_OF_@ + ITEMS - 1) / ITEMS;
  if (group() >= begin && group() < begin + groups@) {
    member = @;
    item -= begin * ITEMS;
    is_mine = item < ITEMS_OF_@;
#ifdef ROTATED
    turns = TURNS@;
#endif
  }
  begin += groups@;
#pragma end
#endif
  const uvec2 columns = columns_of(item, turns);
  [[unroll]] for (uint i = 0; i < SUMS; i++) {
    sums[i] = 0;
  }
  fetch(member, columns, lane());
#ifdef LOW
#ifdef GATED
  add_low0(0, columns.x);
  add_low1(1, columns.y);
#else
#pragma each
  if (member == @) {
    add_low@(0, columns.x);
    add_low@(1, columns.y);
  }
#pragma end
#endif
#endif
  prepare_x();
  add_strips(lane());
  for (uint first = lane() + BATCH * LANES; first < STRIPS; first += BATCH * LANES) {
    fetch(member, columns, first);
    add_strips(first);
  }
  add_lanes();
  [[unroll]] for (uint row = 0; row < ROWS; row++) {
    if (is_mine && lane() == row % LANES) {
#ifdef GATED
      finish0(item, row, columns);
#else
#pragma each
      if (member == @) {
        finish@(item, row, columns);
      }
#pragma end
#endif
    }
  }
}
