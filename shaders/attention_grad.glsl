// What attention_dq.comp and attention_dkv.comp read, and how.
//
// Every operand is bound where their heads list it.
layout(binding = 3, std430) readonly buffer Lse { float lse[]; };
layout(binding = 4, std430) readonly buffer Delta { float delta[]; };
layout(binding = 6, std430) readonly buffer First { int first[]; };
layout(binding = 7, std430) readonly buffer Last { int last[]; };
#include "attention.glsl"
#include "matrix.glsl"
MATRIX_F32(q, 0, ROWS * HEADS, WIDTH)
MATRIX_F32(k, 1, KEYS * KV_HEADS, WIDTH)
MATRIX_F32(v, 2, KEYS * KV_HEADS, WIDTH)
MATRIX_F32(dout, 5, ROWS * HEADS, WIDTH)

const uint Q_ROWS = 0, K_ROWS = 1, V_ROWS = 2, DOUT_ROWS = 3;

vec4 fetch(uint operand, uint row, uint column) {
  const bool of_query = operand == Q_ROWS || operand == DOUT_ROWS;
  const uint at = of_query ? row * HEADS + head() : row * KV_HEADS + kv_head();
  switch (operand) {
    case Q_ROWS: return load_q(at, 4 * column);
    case K_ROWS: return load_k(at, 4 * column);
    case V_ROWS: return load_v(at, 4 * column);
    default: return load_dout(at, 4 * column);
  }
}

#ifdef ROTATED
MATRIX_F32(table, AT_table, TABLE_ROWS, WIDTH)
#endif

// With ROTATED, turns the pairs (i, i + WIDTH / 2) of a row back by its angles, whose cosines and then
// sines are in the table. Both of a pair are in one invocation: WIDTH is a multiple of 8 LANES.
void unrotate(inout vec4 sums[MOST_GROUPS], uint row) {
#ifdef ROTATED
  [[unroll]] for (uint g = 0; g < GROUPS / 2; g++) {
    const uint column = 4 * (lane_x() + LANES * g);
    const vec4 c = load_table(row, column), s = load_table(row, WIDTH / 2 + column);
    const vec4 a = sums[g], b = sums[g + GROUPS / 2];
    sums[g] = a * c + b * s;
    sums[g + GROUPS / 2] = b * c - a * s;
  }
#endif
}
