// One tile of a matrix product, by one workgroup: for the TILE_M rows from `row` and the TILE_N
// columns from `column`, the sums over begin <= k < end of a(row, k) b(k, column).
//
// Each step stages TILE_K values of k in shared memory. Each thread holds QUADS_M x QUADS_N squares
// of 4 x 4 sums in registers, so that two quads read are worth 16 products.
//
// The includer has the constants WORKGROUP, TILE_M, TILE_N, QUADS_M and QUADS_N and defines
//   QUAD      four items of a row or of a column, side by side
//   SUMS      four sums
//   MULTIPLY  (sums, item, quad): add the products of an item with each of a quad
//   stage     fills tile_a and tile_b with the items from k on, zeros outside the operands

#extension GL_EXT_control_flow_attributes : require

const uint TILE_K = 16;
const uint PITCH_A = TILE_M / 4 + 1;  // in quads; one more than needed, against bank conflicts
const uint PITCH_B = TILE_N / 4 + 1;
const uint THREADS_M = TILE_M / (4 * QUADS_M);
const uint THREADS_N = TILE_N / (4 * QUADS_N);

shared QUAD tile_a[TILE_K * PITCH_A];
shared QUAD tile_b[TILE_K * PITCH_B];
SUMS sums[4 * QUADS_M * QUADS_N];

void stage(uint row, uint column, uint k);

// Stage LINES rows or columns from `first`, of which LOAD(line, k) gives four values of k.
#define STAGE_ALONG(TILE, PITCH, LINES, LOAD, first, k)                                    \
  for (uint i = gl_LocalInvocationIndex; i < LINES * TILE_K / 4; i += WORKGROUP) {         \
    const uint line = i / (TILE_K / 4);                                                    \
    const uint inner = i % (TILE_K / 4) * 4;                                               \
    const QUAD quad = LOAD((first) + line, (k) + inner);                                   \
    for (uint j = 0; j < 4; j++) TILE[(inner + j) * PITCH + line / 4][line % 4] = quad[j]; \
  }

// Stage LINES rows or columns from `first`, of which LOAD(k, line) gives four.
#define STAGE_ACROSS(TILE, PITCH, LINES, LOAD, first, k)                           \
  for (uint i = gl_LocalInvocationIndex; i < LINES / 4 * TILE_K; i += WORKGROUP) { \
    const uint inner = i / (LINES / 4);                                            \
    const uint quad = i % (LINES / 4);                                             \
    TILE[inner * PITCH + quad] = LOAD((k) + inner, (first) + 4 * quad);            \
  }

// Hand all sums of this thread, four at a time, to STORE(row, column, sums).
#define STORE_TILE(STORE, row, column)                              \
  [[unroll]] for (uint m = 0; m < QUADS_M; m++)                     \
    [[unroll]] for (uint i = 0; i < 4; i++)                         \
      [[unroll]] for (uint n = 0; n < QUADS_N; n++)                 \
        STORE((row) + 4 * (m * THREADS_M + thread_m()) + i,         \
              (column) + 4 * (n * THREADS_N + thread_n()),          \
              sums[(4 * m + i) * QUADS_N + n]);

// The same as squares of 4 x 4, to STORE(row, column, square).
#define STORE_SQUARES(STORE, row, column)                           \
  [[unroll]] for (uint m = 0; m < QUADS_M; m++)                     \
    [[unroll]] for (uint n = 0; n < QUADS_N; n++) {                 \
      SUMS square[4];                                               \
      [[unroll]] for (uint i = 0; i < 4; i++)                       \
        square[i] = sums[(4 * m + i) * QUADS_N + n];                \
      STORE((row) + 4 * (m * THREADS_M + thread_m()),               \
            (column) + 4 * (n * THREADS_N + thread_n()), square);   \
    }

uint thread_m() { return gl_LocalInvocationIndex / THREADS_N; }

uint thread_n() { return gl_LocalInvocationIndex % THREADS_N; }

void multiply_tiles(uint row, uint column, uint begin, uint end) {
  [[unroll]] for (uint i = 0; i < 4 * QUADS_M * QUADS_N; i++) sums[i] = SUMS(0);
  for (uint k = begin; k < end; k += TILE_K) {
    stage(row, column, k);
    barrier();
    for (uint inner = 0; inner < TILE_K; inner++) {
      QUAD b[QUADS_N];
      [[unroll]] for (uint n = 0; n < QUADS_N; n++)
        b[n] = tile_b[inner * PITCH_B + n * THREADS_N + thread_n()];
      [[unroll]] for (uint m = 0; m < QUADS_M; m++) {
        const QUAD a = tile_a[inner * PITCH_A + m * THREADS_M + thread_m()];
        [[unroll]] for (uint i = 0; i < 4; i++)
          [[unroll]] for (uint n = 0; n < QUADS_N; n++)
            MULTIPLY(sums[(4 * m + i) * QUADS_N + n], a[i], b[n]);
      }
    }
    barrier();
  }
}
