#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// ternary_matvec: y = x w^T of a few rows of int8 activations, for each of some ternary w.
//
//   DOT       with packed dot products
//   SHUFFLED  sums go from lane to lane, in subgroups of SUBGROUP_SIZE
//   NORMED    x is one plain row: its norm is taken and quantized, as ops rms_norm and quantize do
//   MERGED    x is that of attention, still apart by spans of keys, with NORMED
//   LOW       adds low b^T, the part of an adapter
//   PARTS     low is FACTOR / rms of x times the sum of parts from FIRST on (ahead.glsl), with NORMED
//   ADDED     adds a residual
//   GATED     y = act(x w0^T) (x w1^T), act being silu or squared_relu
//   ROTATED   op rope on those y that have TURNS
//   KEPT      those y that have KEEPS are caches, whose rows `slots` are written as op write_rows does
//   AHEAD     parts of narrow products with the norm of the one row y (ahead.glsl)
//
// Reference: op ternary_matmul, and these. INNER is a multiple of 128.
// Bindings:
#ifdef NORMED
#ifdef MERGED
//   n read x    f32[SPANS,INNER]
//   n read norm f32[INNER]
//   n read lse  f32[SPANS,HEADS]
#else
//   n read x    f32[ROWS,INNER]
//   n read norm f32[INNER]
#endif
#else
//   n read x q8[ROWS,INNER]
#endif
#ifdef PARTS
//   n read parts f32[PART_COUNT,PART_STACK]
#endif
#pragma each
//   n read w@ t2[COLUMNS@,INNER]
#ifdef LOW
#ifdef PARTS
#else
//   n read low@ f32[ROWS,RANK]
#endif
//   n read b@ f32[COLUMNS@,RANK]
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
#ifdef AHEAD
//   n read ahead_norm f32[COLUMNS0]
#pragma each ahead
//   n read a@ f32[AHEAD_RANK,COLUMNS0]
#pragma end
//   n write parts_ahead f32[GROUPS,STACK]
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
#ifdef PARTS
layout(constant_id = n) const uint FIRST@ = 0;
#endif
#pragma end
#ifdef SHUFFLED
layout(constant_id = n) const uint SUBGROUP_SIZE = 32;
#endif
#ifdef NORMED
layout(constant_id = n) const float EPS = 1e-5;
#endif
#ifdef MERGED
layout(constant_id = n) const uint SPANS = 1;
layout(constant_id = n) const uint HEADS = 1;
#endif
#ifdef LOW
layout(constant_id = n) const uint RANK = 1;
#endif
#ifdef PARTS
layout(constant_id = n) const uint PART_COUNT = 1;
layout(constant_id = n) const uint PART_STACK = 1;
layout(constant_id = n) const float FACTOR = 1.0;
#endif
#ifdef GATED
layout(constant_id = n) const bool SILU = false;
#endif
#ifdef ROTATED
layout(constant_id = n) const uint WIDTH = 2;
#endif
#ifdef AHEAD
layout(constant_id = n) const uint AHEAD_RANK = 1;
layout(constant_id = n) const uint GROUPS = 1;
layout(constant_id = n) const uint STACK = 1;
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
// or of gate and up. Each takes strips of 64 codes in 16 bytes, BATCH of them of each column at a time.
// All that is needed from memory is asked for before anything is waited for. Codes are used as they
// are, 0 to 2; the sum of the activations is taken off, which makes them -1 to 1. Sums are whole
// numbers below 2^24, so floats hold them exactly.

const uint EACH = (STRIPS + LANES - 1) / LANES;
const uint MOST = ROWS > 2 ? 2 : 8;
const uint BATCH = EACH < MOST ? EACH : MOST;
const uint ITEMS = WORKGROUP / LANES;
const int ONES = 0x01010101;

uvec4 codes[2][BATCH];
float w_scales[2];
#ifdef LOW
const uint RANK4 = (RANK + 3) / 4;
const uint LOWS = (RANK4 + LANES - 1) / LANES;
vec4 b_kept[2][LOWS], low_kept[2][ROWS][LOWS];
#endif

#ifdef PARTS
#ifdef GATED
const uint TERMS = 2;
#else
const uint TERMS = 1;
#endif
#include "parts.glsl"
#endif

#pragma each
layout(binding = AT_w@, std430) readonly buffer W@ { uint w@[]; };
layout(binding = AT_w@, std430) readonly buffer Quads@ { uvec4 w@_of4[]; };

// What is past an end is read as the last, so that no load waits; `add_strips` leaves it out.
void ask_for_w@(uint which, uint column, uint first) {
  const uint begin = min(column, COLUMNS@ - 1) * STRIPS;
  [[unroll]] for (uint i = 0; i < BATCH; i++) {
    codes[which][i] = w@_of4[begin + min(first + i * LANES, STRIPS - 1)];
  }
  w_scales[which] = uintBitsToFloat(w@[COLUMNS@ * INNER / 16]);
}

#ifdef LOW
MATRIX_F32(b@, AT_b@, COLUMNS@, RANK)
#ifdef PARTS
#else
MATRIX_F32(low@, AT_low@, ROWS, RANK)
#endif

// Quads of the rank: LANES threads share those of a sum.
void ask_for_low@(uint which, uint column) {
  [[unroll]] for (uint i = 0; i < LOWS; i++) {
    const uint k = 4 * (lane() + i * LANES);
    b_kept[which][i] = load_b@(column, k);
#ifdef PARTS
#else
    [[unroll]] for (uint row = 0; row < ROWS; row++) {
      low_kept[which][row][i] = load_low@(row, k);
    }
#endif
  }
}
#endif
#pragma end

#ifdef LOW
void add_low() {
  [[unroll]] for (uint i = 0; i < LOWS; i++) {
    [[unroll]] for (uint which = 0; which < 2; which++) {
      [[unroll]] for (uint row = 0; row < ROWS; row++) {
#ifdef PARTS
        const uint quad = lane() + i * LANES;
        const vec4 low = quad < RANK4 ? lows[which % TERMS * RANK4 + quad] * x_inverse_rms : vec4(0);
#else
        const vec4 low = low_kept[which][row][i];
#endif
        sums[2 * ROWS + 2 * row + which] += dot(low, b_kept[which][i]);
      }
    }
  }
}
#endif

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
vec2 added_kept[ROWS];
#endif
#ifdef ROTATED
layout(binding = AT_table, std430) readonly buffer Table { float table[]; };
vec2 angle_kept[ROWS];
#endif
#ifdef KEPT
layout(binding = AT_slots, std430) readonly buffer Slots { int slots[]; };
uint places[ROWS];

// The row of a cache that a row goes to; none if a later row goes there.
uint place_of(uint row) {
  bool superseded = false;
  for (uint later = row + 1; later < ROWS; later++) {
    superseded = superseded || slots[later] == slots[row];
  }
  return superseded ? 0xffffffff : uint(slots[row]);
}
#endif

#ifdef AHEAD
#ifdef GATED
#define MADE ITEMS
#else
#define MADE (2 * ITEMS)
#endif
#define AHEAD_COLUMNS COLUMNS0
#pragma each ahead
MATRIX_F32(a@, AT_a@, AHEAD_RANK, COLUMNS0)
#pragma end
vec4 load_any_a(uint row, uint column) {
#pragma each ahead
  if (row / AHEAD_RANK == @) {
    return load_a@(row % AHEAD_RANK, column);
  }
#pragma end
  return vec4(0);
}
#include "ahead.glsl"
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

// What the last step adds to the rows that this lane finishes.
void ask_for_rest(uvec2 columns) {
  [[unroll]] for (uint row = 0; row < ROWS; row++) {
    if (lane() == row % LANES) {
#ifdef ADDED
      const uvec2 at = row * COLUMNS0 + min(columns, uvec2(COLUMNS0 - 1));
      added_kept[row] = vec2(added[at.x], added[at.y]);
#endif
#ifdef ROTATED
      const uint angle = row * WIDTH + columns.x % WIDTH % (WIDTH / 2);
      angle_kept[row] = vec2(table[angle], table[angle + WIDTH / 2]);
#endif
#ifdef KEPT
      places[row] = place_of(row);
#endif
    }
  }
}

void add_strips(uint first) {
  [[unroll]] for (uint i = 0; i < BATCH; i++) {
    const uint strip = first + i * LANES;
    if (strip < STRIPS) {
      [[unroll]] for (uint row = 0; row < ROWS; row++) {
        // Sums of codes that stand 0, 2 or 4 bits too high.
        ivec3 by_place[2] = {ivec3(0), ivec3(0)};
        int total = 0;
        [[unroll]] for (uint k = 0; k < 4; k++) {
          const ivec4 a = quad_of_x(row, strip, k);
#ifdef NORMED
#else
          total += dot4(ONES, a.x) + dot4(ONES, a.y) + dot4(ONES, a.z) + dot4(ONES, a.w);
#endif
          [[unroll]] for (uint which = 0; which < 2; which++) {
            const uvec4 some = k == 0 ? codes[which][i] >> 6 : codes[which][i];
            const ivec4 c = ivec4(some & (0x03030303 << (k == 0 ? 0 : 6 - 2 * k)));
            by_place[which][k == 0 ? 0 : 3 - k] +=
                dot4(c.x, a.x) + dot4(c.y, a.y) + dot4(c.z, a.z) + dot4(c.w, a.w);
          }
        }
        [[unroll]] for (uint which = 0; which < 2; which++) {
          const ivec3 of = by_place[which];
          sums[2 * row + which] += float(of.x + (of.y >> 2) + (of.z >> 4) - total);
        }
      }
    }
  }
}

// Both sums of a row, finished but for what the options at the end do.
vec2 finished(uint row) {
  vec2 y;
  [[unroll]] for (uint which = 0; which < 2; which++) {
    float sum = sums[2 * row + which];
#ifdef NORMED
    sum -= float(x_total);
#endif
    y[which] = sum / scale_of_x(row) * w_scales[which];
#ifdef LOW
    y[which] += sums[2 * ROWS + 2 * row + which];
#endif
#ifdef ADDED
    y[which] += added_kept[row][which];
#endif
  }
  return y;
}

#ifdef GATED
void finish0(uint item, uint row, uvec2 columns) {
  const vec2 y = finished(row);
  const vec4 gate = vec4(y.x);
  const float gated = (SILU ? silu(gate) : squared_relu(gate)).x * y.y;
#ifdef AHEAD
  made[item % ITEMS] = item < COLUMNS0 ? gated : 0.0;
#endif
  if (item < COLUMNS0) {
    y0[row * COLUMNS0 + item] = gated;
  }
}
#else
#pragma each
void finish@(uint item, uint row, uvec2 columns) {
  vec2 y = finished(row);
#ifdef ROTATED
  if (TURNS@) {
    const vec2 angle = angle_kept[row];
    y = vec2(y.x * angle.x - y.y * angle.y, y.y * angle.x + y.x * angle.y);
  }
#endif
#ifdef KEPT
  const uint place = KEEPS@ ? places[row] : row;
  const bool is_kept = place < PLACES@;
#else
  const uint place = row;
  const bool is_kept = true;
#endif
  [[unroll]] for (uint which = 0; which < 2; which++) {
    const bool inside = columns[which] < COLUMNS@;
#ifdef AHEAD
    made[2 * (item % ITEMS) + which] = inside ? y[which] : 0.0;
#endif
    if (inside && is_kept) {
      y@[place * COLUMNS@ + columns[which]] = y[which];
    }
  }
}
#pragma end
#endif

void ask_for_w(uint member, uvec2 columns, uint first) {
#ifdef GATED
  ask_for_w0(0, columns.x, first);
  ask_for_w1(1, columns.y, first);
#else
#pragma each
  if (member == @) {
    ask_for_w@(0, columns.x, first);
    ask_for_w@(1, columns.y, first);
  }
#pragma end
#endif
}

#ifdef LOW
void ask_for_low(uint member, uvec2 columns) {
#ifdef GATED
  ask_for_low0(0, columns.x);
  ask_for_low1(1, columns.y);
#else
#pragma each
  if (member == @) {
    ask_for_low@(0, columns.x);
    ask_for_low@(1, columns.y);
  }
#pragma end
#endif
}
#endif

void main() {
  uint member = MEMBERS, item = shared_item();
  bool turns = false;
  uint first = 0, second = 0;  // columns of the parts
#ifdef GATED
  member = 0;
#ifdef PARTS
  first = FIRST0;
  second = FIRST1;
#endif
#else
  // Each member's items begin with a workgroup.
  uint begin = 0;
#pragma each
  const uint groups@ = (ITEMS_OF_@ + ITEMS - 1) / ITEMS;
  if (group() >= begin && group() < begin + groups@) {
    member = @;
    item -= begin * ITEMS;
#ifdef ROTATED
    turns = TURNS@;
#endif
#ifdef PARTS
    first = FIRST@;
#endif
  }
  begin += groups@;
#pragma end
#endif
  const uvec2 columns = columns_of(item, turns);
  [[unroll]] for (uint i = 0; i < SUMS; i++) {
    sums[i] = 0;
  }
#ifdef NORMED
  ask_for_x();
#endif
#ifdef PARTS
  const uint slice = gl_LocalInvocationIndex / LOW_COLUMNS;
  ask_for_parts(first, second, slice);
#endif
  ask_for_w(member, columns, lane());
#ifdef LOW
  ask_for_low(member, columns);
#endif
  ask_for_rest(columns);
#ifdef AHEAD
  ask_for_a(group() * MADE);
#endif
#ifdef MERGED
  merge_x();
#endif
#ifdef PARTS
  add_parts(first, second);
#endif
#ifdef NORMED
  prepare_x();
#endif
  add_strips(lane());
  for (uint strip = lane() + BATCH * LANES; strip < STRIPS; strip += BATCH * LANES) {
    ask_for_w(member, columns, strip);
    add_strips(strip);
  }
#ifdef LOW
  add_low();
#endif
  add_lanes();
  [[unroll]] for (uint row = 0; row < ROWS; row++) {
    if (lane() == row % LANES) {
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
#ifdef AHEAD
  write_parts(group());
#endif
}
