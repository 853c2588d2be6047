// What a product with ternary weights adds to its sums before they are written, a square of 4 x 4 at
// a time:
//   LOW    low b^T, the up-projection of an adapter, low [ROWS,RANK] and b [COLUMNS,RANK];
//          with ACROSS, low b with b [RANK,COLUMNS], its gradient
//   ADDED  added [ROWS,COLUMNS], a residual or what other products gave
//
// The includer has the constants ROWS and COLUMNS, with LOW also RANK, and the operands' bindings at
// its head (backends/vulkan/variants.py). With LOW_TILES defined, low and b of a tile of TILE_M x TILE_N
// are read from shared memory, where `stage_low` has put them, if they are not too wide.

#extension GL_EXT_control_flow_attributes : require
#include "matrix.glsl"

// Add the products of four values of k: of each row in a, and of b, which holds four columns for each
// of them (ACROSS), or them for each of four columns.
void add_products(inout vec4 sums, vec4 a, vec4 b[4]) {
#ifdef ACROSS
  sums += a.x * b[0] + a.y * b[1] + a.z * b[2] + a.w * b[3];
#else
  sums += vec4(dot(a, b[0]), dot(a, b[1]), dot(a, b[2]), dot(a, b[3]));
#endif
}

#ifdef ACROSS
#define LOAD_LOW_B(LOAD_B, k, j, column) LOAD_B((k) + (j), column)
#else
#define LOAD_LOW_B(LOAD_B, k, j, column) LOAD_B((column) + (j), k)
#endif

// A function that adds an adapter's part to the rows row, row + apart, ... of a square.
#define DEFINE_ADD_LOW(NAME, LOAD_LOW, LOAD_B)                                 \
  void NAME(inout vec4 square[4], uint row, uint apart, uint column) {         \
    for (uint k = 0; k < RANK; k += 4) {                                       \
      vec4 quads[4];                                                           \
      [[unroll]] for (uint j = 0; j < 4; j++) {                                \
        quads[j] = LOAD_LOW_B(LOAD_B, k, j, column);                           \
      }                                                                        \
      [[unroll]] for (uint i = 0; i < 4; i++) {                                \
        add_products(square[i], LOAD_LOW(row + i * apart, k), quads);          \
      }                                                                        \
    }                                                                          \
  }

#ifdef AT_low
MATRIX_F32(low, AT_low, ROWS, RANK)
#ifdef ACROSS
MATRIX_F32(b, AT_b, RANK, COLUMNS)
#else
MATRIX_F32(b, AT_b, COLUMNS, RANK)
#endif
DEFINE_ADD_LOW(add_low, load_low, load_b)
#endif

#ifdef LOW_TILES
const bool STAGES_LOW = RANK <= 16;
const uint LOW4 = STAGES_LOW ? (RANK + 3) / 4 : 0;
const uint PITCH_LOW = LOW4 | 1;  // odd, against bank conflicts
shared vec4 low_tile[TILE_M * PITCH_LOW];
shared vec4 b_tile[TILE_N * PITCH_LOW];

// All invocations call it, and a barrier after it.
void stage_low(uint row, uint column) {
  for (uint i = gl_LocalInvocationIndex; i < TILE_M * LOW4; i += WORKGROUP) {
    low_tile[i / LOW4 * PITCH_LOW + i % LOW4] = load_low(row + i / LOW4, i % LOW4 * 4);
  }
  for (uint i = gl_LocalInvocationIndex; i < TILE_N * LOW4; i += WORKGROUP) {
    b_tile[i / LOW4 * PITCH_LOW + i % LOW4] = load_b(column + i / LOW4, i % LOW4 * 4);
  }
}

vec4 staged_low(uint row, uint k) {
  return low_tile[row % TILE_M * PITCH_LOW + k / 4];
}

vec4 staged_b(uint column, uint k) {
  return b_tile[column % TILE_N * PITCH_LOW + k / 4];
}

DEFINE_ADD_LOW(add_staged_low, staged_low, staged_b)
#endif

#ifdef AT_added
MATRIX_F32(added, AT_added, ROWS, COLUMNS)
#endif

// Add it to the rows row, row + apart, ... and the four columns from `column` on.
void finish(inout vec4 square[4], uint row, uint apart, uint column) {
#ifdef LOW_TILES
  if (STAGES_LOW) {
    add_staged_low(square, row, apart, column);
  } else {
    add_low(square, row, apart, column);
  }
#elif defined(AT_low)
  add_low(square, row, apart, column);
#endif
#ifdef AT_added
  [[unroll]] for (uint i = 0; i < 4; i++) {
    square[i] += load_added(row + i * apart, column);
  }
#endif
}

// The same for one element.
float finish(float y, uint row, uint column) {
#ifdef AT_low
#ifdef ACROSS
  for (uint k = 0; k < RANK; k++) {
    y += low[row * RANK + k] * b[k * COLUMNS + column];
  }
#else
  for (uint k = 0; k < RANK; k += 4) {
    y += dot(load_low(row, k), load_b(column, k));
  }
#endif
#endif
#ifdef AT_added
  y += added[row * COLUMNS + column];
#endif
  return y;
}
