// y = x w^T / scale of the row * scale of w for a few rows of x, exact in int32 up to the division.
//
// LANES threads share a row of w. Each takes strips of 64 codes in 16 bytes, BATCH of them in flight.
// Codes are used as they are, 0 to 2; the sum of the activations is taken off, which makes them -1
// to 1. The includer has dot4. INNER is a multiple of 128. With LOW and ADDED as in
// epilogue.glsl; with ROTATED each head is rotated in the end.

#define SUM int
#include "lanes.glsl"
layout(binding = 0, std430) readonly buffer X { int x[]; };
layout(binding = 0, std430) readonly buffer X4 { ivec4 x4[]; };
layout(binding = 1, std430) readonly buffer W { uint w[]; };
layout(binding = 1, std430) readonly buffer W4 { uvec4 w4[]; };
layout(binding = 2, std430) writeonly buffer Y { float y[]; };
#include "epilogue.glsl"

const uint STRIPS = INNER / 64;
const uint BATCH = ROWS > 2 ? 2 : 4;
const int ONES = 0x01010101;

// A strip's part of a sum. Strip 2 g + h has the words 4 h to 4 h + 3 of group g; their codes at
// shift 6 - 2 k (ternary.glsl) belong to the 16 activations from 128 g + 32 k + 16 h on.
int strip_sum(uint row, uint strip, uvec4 codes) {
  int sum = 0;
  [[unroll]] for (uint k = 0; k < 4; k++) {
    const ivec4 a = x4[row * (INNER / 16) + strip / 2 * 8 + 2 * k + strip % 2];
    const ivec4 c = ivec4((codes >> (6 - 2 * k)) & 0x03030303);
    sum += dot4(c.x, a.x) + dot4(c.y, a.y) + dot4(c.z, a.z) + dot4(c.w, a.w);
    sum -= dot4(ONES, a.x) + dot4(ONES, a.y) + dot4(ONES, a.z) + dot4(ONES, a.w);
  }
  return sum;
}

void add_strips(uint column) {
  int sums[ROWS];
  [[unroll]] for (uint row = 0; row < ROWS; row++) {
    sums[row] = 0;
  }
  for (uint first = lane(); column < COLUMNS && first < STRIPS; first += BATCH * LANES) {
    uvec4 codes[BATCH];
    [[unroll]] for (uint i = 0; i < BATCH; i++) {
      if (first + i * LANES < STRIPS) {
        codes[i] = w4[column * STRIPS + first + i * LANES];
      }
    }
    [[unroll]] for (uint i = 0; i < BATCH; i++) {
      if (first + i * LANES < STRIPS) {
        [[unroll]] for (uint row = 0; row < ROWS; row++) {
          sums[row] += strip_sum(row, first + i * LANES, codes[i]);
        }
      }
    }
  }
  [[unroll]] for (uint row = 0; row < ROWS; row++) {
    partial[row * WORKGROUP + gl_LocalInvocationIndex] = sums[row];
  }
}

#ifdef ROTATED
layout(binding = AT_table, std430) readonly buffer Table { float table[]; };

const uint ITEMS = WORKGROUP / LANES;
shared float ended[ROWS * ITEMS];

// Sums that follow each other are those of the pairs that op rope rotates, of each head of WIDTH.
uint column_at(uint item) {
  const uint pair = item / 2;
  return pair / (WIDTH / 2) * WIDTH + pair % (WIDTH / 2) + item % 2 * (WIDTH / 2);
}
#else
uint column_at(uint item) {
  return item;
}
#endif

float result(uint row, uint column) {
  const int sum = partial[row * WORKGROUP + gl_LocalInvocationIndex];
  const float x_scale = intBitsToFloat(x[ROWS * INNER / 4 + row]);
  const float w_scale = uintBitsToFloat(w[COLUMNS * INNER / 16]);
  return finish(float(sum) / x_scale * w_scale, row, column);
}

void main() {
  const uint item = shared_item();
  const uint column = column_at(item);
  const bool is_mine = lane() == 0 && column < COLUMNS;
  add_strips(column);
  add_lanes();
#ifdef ROTATED
  for (uint row = 0; is_mine && row < ROWS; row++) {
    ended[row * ITEMS + item % ITEMS] = result(row, column);
  }
  barrier();
  for (uint row = 0; is_mine && row < ROWS; row++) {
    const uint at = row * WIDTH + column % (WIDTH / 2);
    const float own = ended[row * ITEMS + item % ITEMS];
    const float other = ended[row * ITEMS + (item ^ 1) % ITEMS];
    const float sine = table[at + WIDTH / 2];
    y[row * COLUMNS + column] = own * table[at] + (item % 2 == 0 ? -sine : sine) * other;
  }
#else
  for (uint row = 0; is_mine && row < ROWS; row++) {
    y[row * COLUMNS + column] = result(row, column);
  }
#endif
}
