#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// attention_dq_cm: what attention_dq computes, on matrix units: with p = exp(SCALE q k^T - lse),
// dq = SCALE (p (dout v^T - delta)) k; ROTATED by the angles of each row, backwards, to be the gradient
// of what was rotated before. A workgroup has a tile of queries of all heads that share keys.
//
// Reference: op attention_grad, its first result; Dao (2023). power is what attention_power gives. WIDTH
// is a multiple of 32, at most 128. Where q, k or v is beyond the range of f16, 65,504, results are NaN.
// Bindings:
//   0 read  q     f32[ROWS,HEADS,WIDTH]
//   1 read  k     f32[KEYS,KV_HEADS,WIDTH]
//   2 read  v     f32[KEYS,KV_HEADS,WIDTH]
//   3 read  lse   f32[ROWS,HEADS]
//   4 read  delta f32[ROWS,HEADS]
//   5 read  dout  f32[ROWS,HEADS,WIDTH]
//   6 read  power f32[ROWS,HEADS]
//   7 read  first i32[ROWS]
//   8 read  last  i32[ROWS]
//   9 write dq    f32[ROWS,HEADS,WIDTH]
#ifdef ROTATED
//   n read  table f32[ROWS,WIDTH]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint KEYS = 1;
layout(constant_id = 2) const uint HEADS = 1;
layout(constant_id = 3) const uint KV_HEADS = 1;
layout(constant_id = 4) const uint WIDTH = 32;
layout(constant_id = 5) const float SCALE = 1.0;
layout(constant_id = 6) const uint SUBGROUP_SIZE = 32;
layout(local_size_x = 128) in;
layout(binding = 9, std430) writeonly buffer Dq4 { vec4 dq4[]; };
const uint SHARE = HEADS / KV_HEADS;
const uint SUMS = 1;
const bool AHEAD = true;
#include "attention_grad_units.glsl"

// Of the row whose scores a thread has.
int from = int(KEYS), to = -1;
float row_lse = 0, row_delta = 0;
int keys_begin;

// The last tiles see the most keys, so they start first.
uint begin() {
  return (gl_NumWorkGroups.x - 1 - gl_WorkGroupID.x) * OWN;
}

uint first_head() {
  return gl_WorkGroupID.y * SHARE;
}

Eight own(uint product, uint row, uint part) {
  return of_query(product, begin() + row, part);
}

Eight other(uint product, uint row, uint part) {
  return of_key(product, row, part);
}

void fetch_more(int tile) {}

void prepare(int tile) {
  keys_begin = tile;
}

void weigh(uint row, uint column, inout float p[COLUMNS], inout float ds[COLUMNS]) {
  [[unroll]] for (uint i = 0; i < COLUMNS; i++) {
    const int key = keys_begin + int(column + i);
    const bool seen = key >= from && key <= to;
    ds[i] = seen ? exp(SCALE * p[i] - row_lse) * (ds[i] - row_delta) : 0.0;
  }
}

void store(uint sum, uint row, uint column, vec4 a, vec4 b) {
  const uint line = begin() + row;
  if (line < LINES) {
    const uint place = place_of(line), at = (place * WIDTH + column) / 4;
    unrotate(a, b, line / SHARE, column);
    dq4[at] = SCALE * power[place] * a;
    dq4[at + WIDTH / 8] = SCALE * power[place] * b;
  }
}

void main() {
  if (gl_LocalInvocationIndex == 0) {
    low = int(KEYS);
    high = -1;
  }
  barrier();
  const uint line = begin() + gl_LocalInvocationIndex / 4;
  if (line < LINES) {
    const uint place = place_of(line);
    from = max(first[line / SHARE], 0);
    to = min(last[line / SHARE], int(KEYS) - 1);
    row_lse = lse[place];
    row_delta = delta[place] * inverse_of(power[place]);
  }
  const int strip_low = subgroupMin(from), strip_high = subgroupMax(to);
  if (subgroupElect()) {
    atomicMin(low, strip_low);
    atomicMax(high, strip_high);
  }
  barrier();
  pass(low, high);
}
