// Products with a thin result, which has few tiles of 16 x 16: each workgroup has one and LANES threads
// share each square of 4 x 4 sums of it, the inner axis split between them. So there is enough to do
// at once without a second stage.
//
// The includer has the constants LANES and WORKGROUP, 16 * LANES. Neighbouring threads have the squares
// of one column after the other; with ROWS_TOGETHER those of all rows too, before the next lane.

#extension GL_EXT_control_flow_attributes : require
#include "index.glsl"
#include "matrix.glsl"

const uint TILE = 16;
const uint PITCH = LANES + 1;  // against bank conflicts

shared float partial[TILE * TILE * PITCH];
vec4 sums[4];

uint lane() {
#ifdef ROWS_TOGETHER
  return gl_LocalInvocationIndex / 16;
#else
  return gl_LocalInvocationIndex / 4 % LANES;
#endif
}

uint square() {
#ifdef ROWS_TOGETHER
  return gl_LocalInvocationIndex % 16;
#else
  return gl_LocalInvocationIndex / (4 * LANES) * 4 + gl_LocalInvocationIndex % 4;
#endif
}

// First row and column of this thread's square in the tile.
uint square_row() {
  return square() / 4 * 4;
}

uint square_column() {
  return square() % 4 * 4;
}

// Add the products of four rows of a with four of b.
void add_along(vec4 a[4], vec4 b[4]) {
  [[unroll]] for (uint i = 0; i < 4; i++) {
    sums[i] += vec4(dot(a[i], b[0]), dot(a[i], b[1]), dot(a[i], b[2]), dot(a[i], b[3]));
  }
}

// Add a b, where b has four items of four rows.
void add_across(vec4 a[4], vec4 b[4]) {
  [[unroll]] for (uint i = 0; i < 4; i++) {
    sums[i] += a[i].x * b[0] + a[i].y * b[1] + a[i].z * b[2] + a[i].w * b[3];
  }
}

// Put this thread's sums where all can see them. All threads call it together.
void share_sums() {
  [[unroll]] for (uint i = 0; i < 16; i++) {
    partial[(square() * 16 + i) * PITCH + lane()] = sums[i / 4][i % 4];
  }
  barrier();
}

// A sum of the tile, always added in the same order.
float tile_sum(uint row, uint column) {
  const uint from = ((row / 4 * 4 + column / 4) * 16 + row % 4 * 4 + column % 4) * PITCH;
  float sum = 0;
  for (uint i = 0; i < LANES; i++) {
    sum += partial[from + i];
  }
  return sum;
}

