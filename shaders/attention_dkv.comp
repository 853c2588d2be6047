#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// attention_dkv: the gradients of attention for keys and values, from each query head apart, one
// workgroup for a tile of keys of a query head: with p = exp(SCALE q k^T - lse),
// dv = p^T dout and dk = SCALE (p (dout v^T - delta))^T q; dk ROTATED as in attention_dq.
//
// Reference: op attention_grad, its other results before the sum over the heads that share keys.
// Bindings:
//   0 read  q     f32[ROWS,HEADS,WIDTH]
//   1 read  k     f32[KEYS,KV_HEADS,WIDTH]
//   2 read  v     f32[KEYS,KV_HEADS,WIDTH]
//   3 read  lse   f32[ROWS,HEADS]
//   4 read  delta f32[ROWS,HEADS]
//   5 read  dout  f32[ROWS,HEADS,WIDTH]
//   6 read  first i32[ROWS]
//   7 read  last  i32[ROWS]
//   8 write dk    f32[KEYS,HEADS,WIDTH]
//   9 write dv    f32[KEYS,HEADS,WIDTH]
#ifdef ROTATED
//   n read  table f32[KEYS,WIDTH]
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
#define TABLE_ROWS KEYS
#include "attention_grad.glsl"
RESULT_F32(dk, 8, WIDTH, 0, WIDTH)
RESULT_F32(dv, 9, WIDTH, 0, WIDTH)

// Leaves in low and high the first and the last query that see a key of the tile.
void find_queries(uint begin) {
  if (gl_LocalInvocationIndex == 0) {
    low = int(ROWS);
    high = -1;
  }
  barrier();
  for (uint row = gl_LocalInvocationIndex; row < ROWS; row += THREADS) {
    if (first[row] < int(begin + TILE) && last[row] >= int(begin)) {
      atomicMin(low, int(row));
      atomicMax(high, int(row));
    }
  }
  barrier();
}

void main() {
  const uint begin = gl_WorkGroupID.x * TILE;
  find_queries(begin);
  const int end = high;
  Accumulator dk_sums = zeros(), dv_sums = zeros();
  for (int tile = low; tile <= end; tile += int(TILE)) {
    Scores p = dots(K_ROWS, begin, Q_ROWS, uint(tile));
    Scores ds = dots(V_ROWS, begin, DOUT_ROWS, uint(tile));
    [[unroll]] for (uint c = 0; c < 4; c++) {
      const uint row = uint(tile) + lane_x() + LANES * c;
      int from = 0, to = -1;
      float row_lse = 0, row_delta = 0;
      if (row < ROWS) {
        from = first[row];
        to = last[row];
        row_lse = lse[row * HEADS + head()];
        row_delta = delta[row * HEADS + head()];
      }
      [[unroll]] for (uint r = 0; r < 4; r++) {
        const int key = int(begin + lane_y() + LANES * r);
        const bool seen = key >= from && key <= to;
        p.at[r][c] = seen ? exp(SCALE * p.at[r][c] - row_lse) : 0.0;
        ds.at[r][c] = SCALE * p.at[r][c] * (ds.at[r][c] - row_delta);
      }
    }
    keep(p);
    accumulate(dv_sums, DOUT_ROWS, uint(tile));
    keep(ds);
    accumulate(dk_sums, Q_ROWS, uint(tile));
  }
  [[unroll]] for (uint r = 0; r < 4; r++) {
    const uint row = begin + lane_y() + LANES * r;
    unrotate(dk_sums.at[r], row);
    [[unroll]] for (uint g = 0; g < MOST_GROUPS; g++) {
      const uint column = lane_x() + LANES * g;
      if (row < KEYS) {
        store_dk(row * HEADS + head(), 4 * column, dk_sums.at[r][g]);
        store_dv(row * HEADS + head(), 4 * column, dv_sums.at[r][g]);
      }
    }
  }
}
