#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// attention_dkv_cm: what attention_dkv computes, on matrix units: with p = exp(SCALE q k^T - lse),
// dv = p^T dout and dk = SCALE (p (dout v^T - delta))^T q, each the sum over the HEADS / PARTS query
// heads of a part, all of which have the same keys; dk ROTATED as in attention_dq_cm. A workgroup has a
// tile of keys.
//
// Reference: op attention_grad, its other results before the sum over the parts that share keys. power and
// WIDTH are as in attention_dq_cm.
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
//   9 write dk    f32[KEYS,PARTS,WIDTH]
//  10 write dv    f32[KEYS,PARTS,WIDTH]
#ifdef ROTATED
//   n read  table f32[KEYS,WIDTH]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint KEYS = 1;
layout(constant_id = 2) const uint HEADS = 1;
layout(constant_id = 3) const uint KV_HEADS = 1;
layout(constant_id = 4) const uint PARTS = 1;
layout(constant_id = 5) const uint WIDTH = 32;
layout(constant_id = 6) const float SCALE = 1.0;
layout(constant_id = 7) const uint SUBGROUP_SIZE = 32;
layout(local_size_x = 128) in;
layout(binding = 9, std430) writeonly buffer Dk4 { vec4 dk4[]; };
layout(binding = 10, std430) writeonly buffer Dv4 { vec4 dv4[]; };
const uint SHARE = HEADS / PARTS;
const uint SUMS = 2;
const bool AHEAD = false;
#include "attention_grad_units.glsl"

shared uint largest;           // power of the lines that see a key of the tile, by its bits
shared ivec2 line_sees[TILE];  // the first and the last key
shared vec4 line_stats[TILE];  // lse, delta over power, power over the largest one
ivec2 next_sees;               // the same of the next tile, of a thread's line
vec3 next_stats;               // lse, delta, power

uint begin() {
  return gl_WorkGroupID.x * OWN;
}

uint first_head() {
  return gl_WorkGroupID.y * SHARE;
}

Eight own(uint product, uint row, uint part) {
  return of_key(product, begin() + row, part);
}

Eight other(uint product, uint row, uint part) {
  return of_query(product, row, part);
}

void fetch_more(int tile) {
  const uint line = uint(tile) + gl_LocalInvocationIndex;
  next_sees = ivec2(0, -1);
  next_stats = vec3(0, 0, 1);
  if (gl_LocalInvocationIndex < TILE && line < LINES) {
    const uint place = place_of(line);
    next_sees = ivec2(first[line / SHARE], last[line / SHARE]);
    next_stats = vec3(lse[place], delta[place], power[place]);
  }
}

void prepare(int tile) {
  if (gl_LocalInvocationIndex < TILE) {
    const float inverse = inverse_of(next_stats.z);
    const float share = next_stats.z * inverse_of(uintBitsToFloat(largest));
    line_sees[gl_LocalInvocationIndex] = next_sees;
    line_stats[gl_LocalInvocationIndex] = vec4(next_stats.x, next_stats.y * inverse, share, 0);
  }
}

void weigh(uint row, uint column, inout float p[COLUMNS], inout float ds[COLUMNS]) {
  const int key = int(begin() + row);
  [[unroll]] for (uint i = 0; i < COLUMNS; i++) {
    const ivec2 sees = line_sees[column + i];
    const vec4 stats = line_stats[column + i];
    const bool seen = key >= sees.x && key <= sees.y;
    p[i] = seen ? stats.z * exp(SCALE * p[i] - stats.x) : 0.0;
    ds[i] = p[i] * (ds[i] - stats.y);
  }
}

void store(uint sum, uint row, uint column, vec4 a, vec4 b) {
  const uint key = begin() + row;
  if (key < KEYS) {
    const uint at = ((key * PARTS + gl_WorkGroupID.y) * WIDTH + column) / 4;
    const float scale = uintBitsToFloat(largest);
    if (sum == 0) {
      dv4[at] = scale * a;
      dv4[at + WIDTH / 8] = scale * b;
    } else {
      unrotate(a, b, key, column);
      dk4[at] = SCALE * scale * a;
      dk4[at + WIDTH / 8] = SCALE * scale * b;
    }
  }
}

// Leaves in low and high the first and the last query that see a key of the tile.
void find_queries() {
  if (gl_LocalInvocationIndex == 0) {
    low = int(ROWS);
    high = -1;
    largest = 1 << 23;
  }
  barrier();
  int lowest = int(ROWS), highest = -1;
  uint most = 0;
  for (uint row = gl_LocalInvocationIndex; row < ROWS; row += WORKGROUP) {
    if (first[row] < int(begin() + OWN) && last[row] >= int(begin())) {
      lowest = min(lowest, int(row));
      highest = int(row);
      for (uint h = 0; h < SHARE; h++) {
        most = max(most, floatBitsToUint(power[place_of(row * SHARE + h)]));
      }
    }
  }
  lowest = subgroupMin(lowest);
  highest = subgroupMax(highest);
  most = subgroupMax(most);
  if (subgroupElect()) {
    atomicMin(low, lowest);
    atomicMax(high, highest);
    atomicMax(largest, most);
  }
  barrier();
}

void main() {
  find_queries();
  pass(low * int(SHARE), high * int(SHARE) + int(SHARE) - 1);
}
