// y = a b^T for a few rows of a. LANES threads share a row of b, each takes every LANES-th quad of
// it, BATCH of them in flight. The includer defines load_a, load_b and store_y (matrix.glsl).

#define SUM float
#include "lanes.glsl"

const uint QUADS = (INNER + 3) / 4;
const uint BATCH = ROWS > 2 ? 4 : 8;

void add_quads(uint column) {
  float sums[ROWS];
  [[unroll]] for (uint row = 0; row < ROWS; row++) {
    sums[row] = 0;
  }
  for (uint first = lane(); column < COLUMNS && first < QUADS; first += BATCH * LANES) {
    vec4 b[BATCH];
    [[unroll]] for (uint i = 0; i < BATCH; i++) {
      b[i] = load_b(column, 4 * (first + i * LANES));
    }
    [[unroll]] for (uint i = 0; i < BATCH; i++) {
      [[unroll]] for (uint row = 0; row < ROWS; row++) {
        sums[row] += dot(load_a(row, 4 * (first + i * LANES)), b[i]);
      }
    }
  }
  [[unroll]] for (uint row = 0; row < ROWS; row++) {
    partial[row * WORKGROUP + gl_LocalInvocationIndex] = sums[row];
  }
}

void main() {
  const uint column = shared_item();
  add_quads(column);
  add_lanes();
  if (lane() == 0 && column < COLUMNS) {
    for (uint row = 0; row < ROWS; row++) {
      y[row * WIDTH + FIRST + column] = partial[row * WORKGROUP + gl_LocalInvocationIndex];
    }
  }
}
