// y = x w^T / scale of the row * scale of w, exact in int32 up to the division; see tile.glsl. An
// item is a word of four int8 values of k. The includer has dot4.

#include "index.glsl"
#include "quantized.glsl"
#include "ternary.glsl"
#include "epilogue.glsl"
QUANTIZED(x, 0, ROWS, INNER)
TERNARY(w, 1, COLUMNS, INNER)
RESULT_F32(y, 2, COLUMNS, 0, COLUMNS)
#define QUAD ivec4
#define SUMS ivec4
#define MULTIPLY(sums, item, quad) sums += dots(item, quad)

ivec4 dots(int item, ivec4 quad) {
  return ivec4(dot4(item, quad.x), dot4(item, quad.y), dot4(item, quad.z), dot4(item, quad.w));
}

#include "tile.glsl"

const uint TILES_N = (COLUMNS + TILE_N - 1) / TILE_N;

// Four words of a row of weights, which are 16 weights.
ivec4 load_w(uint row, uint word) {
  return ivec4(w_bytes(row, 4 * word), w_bytes(row, 4 * word + 4), w_bytes(row, 4 * word + 8),
               w_bytes(row, 4 * word + 12));
}

void stage(uint row, uint column, uint k) {
  STAGE_ALONG(tile_a, PITCH_A, TILE_M, load_x, row, k)
  STAGE_ALONG(tile_b, PITCH_B, TILE_N, load_w, column, k)
}

void store_scaled(uint row, uint column, ivec4 sums[4]) {
  vec4 square[4];
  [[unroll]] for (uint i = 0; i < 4; i++) {
    square[i] = vec4(sums[i]) / x_scale(min(row + i, ROWS - 1)) * w_scale();
  }
  finish(square, row, 1, column);
  [[unroll]] for (uint i = 0; i < 4; i++) {
    if (row + i < ROWS) {
      store_y(row + i, column, square[i]);
    }
  }
}

void main() {
  const uint number = group();
  const uint row = number / TILES_N * TILE_M;
  const uint column = number % TILES_N * TILE_N;
  if (row < ROWS) {
    multiply_tiles(row, column, 0, x_STRIDE);
    STORE_SQUARES(store_scaled, row, column)
  }
}
