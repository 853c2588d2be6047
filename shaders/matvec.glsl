// y = a b^T for a few rows of a. LANES threads share a row of b, each takes every LANES-th quad of
// it, BATCH of them in flight. The includer defines load_a, load_b and y (matrix.glsl).

#define SUMS ROWS
#include "lanes.glsl"

const uint QUADS = (INNER + 3) / 4;
const uint BATCH = ROWS > 2 ? 4 : 8;

void add_quads(uint column) {
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
}

void main() {
  const uint column = shared_item();
  add_quads(column);
  add_lanes();
  if (lane() == 0 && column < COLUMNS) {
    [[unroll]] for (uint row = 0; row < ROWS; row++) {
      y[row * WIDTH + FIRST + column] = sums[row];
    }
  }
}
