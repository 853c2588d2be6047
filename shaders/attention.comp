#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// attention: o = softmax(SCALE q k^T) v over the keys first[n] .. last[n], and lse, the log of the
// sum of the exponentials, one workgroup for a tile of queries of a head. Scores live tile by tile.
//
// Reference: op attention; Milakov and Gimelshein (2018) for the softmax in one pass.
// Bindings:
//   0 read  q     f32[ROWS,HEADS,WIDTH]
//   1 read  k     f32[KEYS,KV_HEADS,WIDTH]
//   2 read  v     f32[KEYS,KV_HEADS,WIDTH]
//   3 read  first i32[ROWS]
//   4 read  last  i32[ROWS]
//   5 write o     f32[ROWS,HEADS,WIDTH]
//   6 write lse   f32[ROWS,HEADS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint KEYS = 1;
layout(constant_id = 2) const uint HEADS = 1;
layout(constant_id = 3) const uint KV_HEADS = 1;
layout(constant_id = 4) const uint WIDTH = 1;
layout(constant_id = 5) const float SCALE = 1.0;
layout(constant_id = 6) const uint LANES = 16;
layout(constant_id = 7) const uint WORKGROUP = 256;
layout(local_size_x_id = 7) in;
layout(binding = 3, std430) readonly buffer First { int first[]; };
layout(binding = 4, std430) readonly buffer Last { int last[]; };
layout(binding = 6, std430) writeonly buffer Lse { float lse[]; };
#include "attention.glsl"
#include "matrix.glsl"
MATRIX_F32(q, 0, ROWS * HEADS, WIDTH)
MATRIX_F32(k, 1, KEYS * KV_HEADS, WIDTH)
MATRIX_F32(v, 2, KEYS * KV_HEADS, WIDTH)
RESULT_F32(o, 5, WIDTH, 0, WIDTH)

const uint Q_ROWS = 0, K_ROWS = 1, V_ROWS = 2;
const uint PARTS4 = LANES / 4 + 1;

vec4 fetch(uint operand, uint row, uint column) {
  if (operand == Q_ROWS) {
    return load_q(row * HEADS + head(), 4 * column);
  }
  if (row > uint(high)) {
    return vec4(0);  // of a cache, where nobody has written yet: it may be NaN
  }
  const uint at = row * KV_HEADS + kv_head();
  return operand == K_ROWS ? load_k(at, 4 * column) : load_v(at, 4 * column);
}

// Lays one number for each of an invocation's rows where all of the row find it.
void share_parts(vec4 x) {
  barrier();
  [[unroll]] for (uint r = 0; r < 4; r++) {
    slices[(lane_y() + LANES * r) * PARTS4 + lane_x() / 4][lane_x() % 4] = x[r];
  }
  barrier();
}

vec4 row_max(vec4 x) {
  share_parts(x);
  [[unroll]] for (uint r = 0; r < 4; r++) {
    for (uint i = 0; i < LANES / 4; i++) {
      const vec4 part = slices[(lane_y() + LANES * r) * PARTS4 + i];
      x[r] = max(x[r], max(max(part.x, part.y), max(part.z, part.w)));
    }
  }
  return x;
}

vec4 row_sum(vec4 x) {
  share_parts(x);
  vec4 sum = vec4(0);
  [[unroll]] for (uint r = 0; r < 4; r++) {
    for (uint i = 0; i < LANES / 4; i++) {
      const vec4 part = slices[(lane_y() + LANES * r) * PARTS4 + i];
      sum[r] += (part.x + part.y) + (part.z + part.w);
    }
  }
  return sum;
}

void main() {
  // The last tiles see the most keys, so they start first.
  const uint begin = (gl_NumWorkGroups.x - 1 - gl_WorkGroupID.x) * TILE;
  if (gl_LocalInvocationIndex == 0) {
    low = int(KEYS);
    high = -1;
  }
  barrier();
  ivec4 from = ivec4(0), to = ivec4(-1);
  [[unroll]] for (uint r = 0; r < 4; r++) {
    const uint row = begin + lane_y() + LANES * r;
    if (row < ROWS) {
      from[r] = max(first[row], 0);
      to[r] = min(last[row], int(KEYS) - 1);
      atomicMin(low, from[r]);
      atomicMax(high, to[r]);
    }
  }
  barrier();
  const int end = high;
  vec4 top = vec4(HIDDEN), total = vec4(0);
  Accumulator sums = zeros();
  for (int tile = low; tile <= end; tile += int(TILE)) {
    Scores scores = dots(Q_ROWS, begin, K_ROWS, uint(tile));
    vec4 highest = top;
    [[unroll]] for (uint r = 0; r < 4; r++) {
      [[unroll]] for (uint c = 0; c < 4; c++) {
        const int key = tile + int(lane_x() + LANES * c);
        const bool seen = key >= from[r] && key <= to[r];
        scores.at[r][c] = seen ? SCALE * scores.at[r][c] : HIDDEN;
        highest[r] = max(highest[r], scores.at[r][c]);
      }
    }
    highest = row_max(highest);
    const vec4 shrink = exp(top - highest);
    top = highest;
    total *= shrink;
    [[unroll]] for (uint r = 0; r < 4; r++) {
      [[unroll]] for (uint c = 0; c < 4; c++) {
        const float p = scores.at[r][c] > HIDDEN ? exp(scores.at[r][c] - top[r]) : 0.0;
        scores.at[r][c] = p;
        total[r] += p;
      }
      [[unroll]] for (uint g = 0; g < MOST_GROUPS; g++) {
        sums.at[r][g] *= shrink[r];
      }
    }
    keep(scores);
    accumulate(sums, V_ROWS, uint(tile));
  }
  total = row_sum(total);
  [[unroll]] for (uint r = 0; r < 4; r++) {
    const uint row = begin + lane_y() + LANES * r;
    if (row < ROWS) {
      [[unroll]] for (uint g = 0; g < MOST_GROUPS; g++) {
        const uint column = lane_x() + LANES * g;
        store_o(row * HEADS + head(), 4 * column, sums.at[r][g] / total[r]);
      }
      if (lane_x() == 0) {
        lse[row * HEADS + head()] = top[r] + log(total[r]);
      }
    }
  }
}
