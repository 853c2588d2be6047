// One tile of a matrix product on matrix units (GL_KHR_cooperative_matrix), by one workgroup.
//
// A workgroup has TILE_M x TILE_N sums, each subgroup WARP_M x WARP_N of them in registers. UNIT_K values
// of k at a time go through one of two halves of shared memory: while they are multiplied, the next are
// written to the other half, and those behind them are on their way to one of two sets of registers. So
// a barrier each is enough, and what is read has the time of two products to arrive. Two halves of short
// steps take no more room than one of a long step, and two workgroups run at a time.
//
// Reading and writing shared memory and the first cache are one bottleneck, so operands should lie such
// that eight threads side by side read 128 bytes side by side (panels.glsl), and write to eight lines of
// shared memory, whose pitch is an odd number of 16 bytes.
//
// The includer has the constants INNER, a multiple of DEPTH, TILE_M, TILE_N, WARP_M, WARP_N,
// SUBGROUP_SIZE and WORKGROUP, and defines
//   FACTOR, SUM           types of what is multiplied and added
//   UNIT_K                values of k of one product of two matrices
//   STAGED, STAGED_BYTES  the vector of uint that shared memory is made of, and its size
//   TERMS                 how many matrices a there are, below each other, each to be multiplied by b
//   SIZE_A, PITCH_A, LAYOUT_A, PLACE_A(row)  vectors of a in a half, from one of its lines to the next,
//                         whether lines are rows or columns, and where a row begins
//   SIZE_B, PITCH_B, LAYOUT_B, PLACE_B(column)  the same of b
//   fetch(set, row, column, k)  reads UNIT_K items from k on into set 0 or 1 of registers
//   stage(half_at, set)   writes a set to `staged`: a from half_at on, b from half_at + SIZE_A on
//   quad_at(place)        16 bytes of `staged` from there on
//   store_quad(row, column, bits)  takes the bits of four sums of a row; or, with OWN_SQUARES defined,
//   store_square(row, apart, column, bits)  takes those of the rows row, row + apart, ... together
// With SHARED defined, tiles may be shared: see share.glsl.
//
// WARP_N is a multiple of STRIP, and STRIP / 4 * UNIT is 4 * SUBGROUP_SIZE, so that each thread has four
// rows of a unit's height.

#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_control_flow_attributes : require

// Whether a thread that goes through items in steps of WORKGROUP has this one. Where they come out even
// no thread need ask.
#define IS_ITEM(item, items) ((items) % WORKGROUP == 0 || (item) < (items))

const uint UNIT = 16;
const uint UNITS_M = WARP_M / UNIT;
const uint UNITS_N = WARP_N / UNIT;
const uint WARPS_N = TILE_N / WARP_N;
const uint APART = UNIT / 4;  // rows between those that a thread stores
const uint STRIP = 32;        // columns whose sums are stored together
const uint PITCH_SUMS = (STRIP + 4) * 4 / STAGED_BYTES;

const uint SIZE_SUMS = WORKGROUP / SUBGROUP_SIZE * UNIT * PITCH_SUMS;
const uint SIZE_HALF = SIZE_A + SIZE_B;
const uint DEPTH = 2 * UNIT_K;  // values of k of both halves

shared STAGED staged[2 * SIZE_HALF > SIZE_SUMS ? 2 * SIZE_HALF : SIZE_SUMS];

void fetch(uint set, uint row, uint column, uint k);
void stage(uint half_at, uint set);
uvec4 quad_at(uint place);
#ifdef OWN_SQUARES
void store_square(uint row, uint apart, uint column, uvec4 bits[4]);
#else
void store_quad(uint row, uint column, uvec4 bits);

void store_square(uint row, uint apart, uint column, uvec4 bits[4]) {
  [[unroll]] for (uint i = 0; i < 4; i++) {
    store_quad(row + i * apart, column, bits[i]);
  }
}
#endif

#ifdef SHARED
bool keeps_sums();
void keep_square(uint row, uint apart, uint column, uvec4 bits[4]);
#endif

// The products of k from `begin` to `end`, multiples of DEPTH, for the tile from `row` and `column` on.
// All in one function, so that the sums are local to it and stay in registers.
void multiply_tile(uint row, uint column, uint begin, uint end) {
  const uint warp_m = gl_SubgroupID / WARPS_N * WARP_M;
  const uint warp_n = gl_SubgroupID % WARPS_N * WARP_N;
  coopmat<SUM, gl_ScopeSubgroup, UNIT, UNIT, gl_MatrixUseAccumulator> sums[UNITS_M * UNITS_N];
  [[unroll]] for (uint i = 0; i < UNITS_M * UNITS_N; i++) {
    sums[i] = coopmat<SUM, gl_ScopeSubgroup, UNIT, UNIT, gl_MatrixUseAccumulator>(0);
  }
  // Past the end the last items are read again; they are not multiplied.
  fetch(0, row, column, begin);
  fetch(1, row, column, begin + UNIT_K);
  stage(0, 0);
  fetch(0, row, column, min(begin + DEPTH, end - UNIT_K));
  barrier();
  for (uint step = begin; step < end; step += DEPTH) {
    [[unroll]] for (uint u = 0; u < 2; u++) {
      const uint half_at = u * SIZE_HALF;
      coopmat<FACTOR, gl_ScopeSubgroup, UNIT, UNIT_K, gl_MatrixUseA> a[TERMS * UNITS_M];
      [[unroll]] for (uint t = 0; t < TERMS; t++) {
        [[unroll]] for (uint m = 0; m < UNITS_M; m++) {
          const uint first = half_at + PLACE_A(t * TILE_M + warp_m + m * UNIT);
          coopMatLoad(a[t * UNITS_M + m], staged, first, PITCH_A, LAYOUT_A);
        }
      }
      [[unroll]] for (uint n = 0; n < UNITS_N; n++) {
        coopmat<FACTOR, gl_ScopeSubgroup, UNIT_K, UNIT, gl_MatrixUseB> b;
        const uint first = half_at + SIZE_A + PLACE_B(warp_n + n * UNIT);
        coopMatLoad(b, staged, first, PITCH_B, LAYOUT_B);
        [[unroll]] for (uint m = 0; m < UNITS_M; m++) {
          [[unroll]] for (uint t = 0; t < TERMS; t++) {
            sums[m * UNITS_N + n] = coopMatMulAdd(a[t * UNITS_M + m], b, sums[m * UNITS_N + n]);
          }
        }
      }
      stage(SIZE_HALF - half_at, 1 - u);
      fetch(1 - u, row, column, min(step + DEPTH + (1 + u) * UNIT_K, end - UNIT_K));
      barrier();
    }
  }
  // Only matrix units know which thread has which sum, so they go by way of shared memory.
  const uint base = gl_SubgroupID * UNIT * PITCH_SUMS;
  [[unroll]] for (uint i = 0; i < UNITS_M * WARP_N / STRIP; i++) {
    const uint m = i / (WARP_N / STRIP), strip = i % (WARP_N / STRIP) * STRIP;
    [[unroll]] for (uint n = 0; n < STRIP / UNIT; n++) {
      coopMatStore(sums[m * UNITS_N + strip / UNIT + n], staged, base + n * UNIT * 4 / STAGED_BYTES,
                   PITCH_SUMS, gl_CooperativeMatrixLayoutRowMajor);
    }
    subgroupBarrier();
    const uint line = gl_SubgroupInvocationID / (STRIP / 4);
    const uint quad = gl_SubgroupInvocationID % (STRIP / 4);
    uvec4 bits[4];
    [[unroll]] for (uint r = 0; r < 4; r++) {
      bits[r] = quad_at(base + (line + r * APART) * PITCH_SUMS + quad * 16 / STAGED_BYTES);
    }
    const uint own_row = warp_m + m * UNIT + line, own_column = warp_n + strip + 4 * quad;
#ifdef SHARED
    if (keeps_sums()) {
      keep_square(own_row, APART, own_column, bits);
    } else
#endif
    {
      store_square(row + own_row, APART, column + own_column, bits);
    }
    subgroupBarrier();
  }
}

void multiply_tile(uint row, uint column) {
  multiply_tile(row, column, 0, INNER);
}
