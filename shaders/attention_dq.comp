#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// attention_dq: the gradient of attention for the queries, one workgroup for a tile of queries of a
// head: with p = exp(SCALE q k^T - lse), dq = SCALE (p (dout v^T - delta)) k; ROTATED by the angles of
// each row, backwards, to be the gradient of what was rotated before.
//
// Reference: op attention_grad, its first result; Dao et al. (2022).
// Bindings:
//   0 read  q     f32[ROWS,HEADS,WIDTH]
//   1 read  k     f32[KEYS,KV_HEADS,WIDTH]
//   2 read  v     f32[KEYS,KV_HEADS,WIDTH]
//   3 read  lse   f32[ROWS,HEADS]
//   4 read  delta f32[ROWS,HEADS]
//   5 read  dout  f32[ROWS,HEADS,WIDTH]
//   6 read  first i32[ROWS]
//   7 read  last  i32[ROWS]
//   8 write dq    f32[ROWS,HEADS,WIDTH]
#ifdef ROTATED
//   n read  table f32[ROWS,WIDTH]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint KEYS = 1;
layout(constant_id = 2) const uint HEADS = 1;
layout(constant_id = 3) const uint KV_HEADS = 1;
layout(constant_id = 4) const uint WIDTH = 1;
layout(constant_id = 5) const float SCALE = 1.0;
layout(constant_id = 6) const uint LANES = 16;
layout(constant_id = 7) const uint WORKGROUP = 256;
layout(local_size_x_id = 7) in;
#define TABLE_ROWS ROWS
#include "attention_grad.glsl"
RESULT_F32(dq, 8, WIDTH, 0, WIDTH)

void main() {
  // The last tiles see the most keys, so they start first.
  const uint begin = (gl_NumWorkGroups.x - 1 - gl_WorkGroupID.x) * TILE;
  if (gl_LocalInvocationIndex == 0) {
    low = int(KEYS);
    high = -1;
  }
  barrier();
  ivec4 from = ivec4(0), to = ivec4(-1);
  vec4 row_lse = vec4(0), row_delta = vec4(0);
  [[unroll]] for (uint r = 0; r < 4; r++) {
    const uint row = begin + lane_y() + LANES * r;
    if (row < ROWS) {
      from[r] = max(first[row], 0);
      to[r] = min(last[row], int(KEYS) - 1);
      row_lse[r] = lse[row * HEADS + head()];
      row_delta[r] = delta[row * HEADS + head()];
      atomicMin(low, from[r]);
      atomicMax(high, to[r]);
    }
  }
  barrier();
  const int end = high;
  Accumulator sums = zeros();
  for (int tile = low; tile <= end; tile += int(TILE)) {
    const Scores scores = dots(Q_ROWS, begin, K_ROWS, uint(tile));
    Scores ds = dots(DOUT_ROWS, begin, V_ROWS, uint(tile));
    [[unroll]] for (uint r = 0; r < 4; r++) {
      [[unroll]] for (uint c = 0; c < 4; c++) {
        const int key = tile + int(lane_x() + LANES * c);
        const bool seen = key >= from[r] && key <= to[r];
        const float p = seen ? exp(SCALE * scores.at[r][c] - row_lse[r]) : 0.0;
        ds.at[r][c] = SCALE * p * (ds.at[r][c] - row_delta[r]);
      }
    }
    keep(ds);
    accumulate(sums, K_ROWS, uint(tile));
  }
  [[unroll]] for (uint r = 0; r < 4; r++) {
    const uint row = begin + lane_y() + LANES * r;
    unrotate(sums.at[r], row);
    [[unroll]] for (uint g = 0; g < MOST_GROUPS; g++) {
      const uint column = lane_x() + LANES * g;
      if (row < ROWS) {
        store_dq(row * HEADS + head(), 4 * column, sums.at[r][g]);
      }
    }
  }
}
