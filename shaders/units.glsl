// One tile of a matrix product on matrix units (GL_KHR_cooperative_matrix), by one workgroup.
//
// A workgroup has TILE_M x TILE_N sums, each subgroup WARP_M x WARP_N of them in registers. Each step
// takes DEPTH values of k through shared memory: while they are multiplied, the next step's items are on
// their way to registers. A second half of shared memory would save a barrier, but room for two
// workgroups at a time is worth more.
//
// The includer has the constants INNER, a multiple of DEPTH, TILE_M, TILE_N, WARP_M, WARP_N,
// SUBGROUP_SIZE and WORKGROUP, and defines
//   FACTOR, SUM           types of what is multiplied and added
//   DEPTH, UNIT_K         values of k of a step, and of one product of two matrices
//   STAGED, STAGED_BYTES  the vector of uint that shared memory is made of, and its size
//   TERMS                 how many matrices a there are, below each other, each to be multiplied by b
//   SIZE_A, PITCH_A, LAYOUT_A, PLACE_A(row, k)  vectors of a, from one of its lines to the next, whether
//                         lines are rows or columns, and where an item of it is
//   SIZE_B, PITCH_B, LAYOUT_B, PLACE_B(column, k)  the same of b
//   fetch(row, column, k)  reads items from k on into registers
//   stage()                writes them to `staged`: a first, b from SIZE_A on
//   quad_at(place)        16 bytes of `staged` from there on
//   store_quad(row, column, bits)  takes the bits of four sums of a row; or, with OWN_SQUARES defined,
//   store_square(row, apart, column, bits)  takes those of the rows row, row + apart, ... together
// With SHARED defined, tiles may be shared: see share.glsl. With HALVES store_square(row, apart, column,
// bits, low) also takes an adapter's part of these sums: see low_units.glsl.
//
// WARP_N is a multiple of STRIP, and STRIP / 4 * UNIT is 4 * SUBGROUP_SIZE, so that each thread has four
// rows of a unit's height.

#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_control_flow_attributes : require

const uint UNIT = 16;
const uint UNITS_M = WARP_M / UNIT;
const uint UNITS_N = WARP_N / UNIT;
const uint WARPS_N = TILE_N / WARP_N;
const uint APART = UNIT / 4;  // rows between those that a thread stores
const uint STRIP = 32;        // columns whose sums are stored together
const uint PITCH_SUMS = (STRIP + 4) * 4 / STAGED_BYTES;

const uint SIZE_SUMS = WORKGROUP / SUBGROUP_SIZE * UNIT * PITCH_SUMS;
#ifdef HALVES
const uint PITCH_LOW = 5;
const uint FIRST_LOW = SIZE_SUMS > TILE_N * PITCH_LOW ? SIZE_SUMS : TILE_N * PITCH_LOW;
const uint FIRST_POWERS = FIRST_LOW + TILE_M * PITCH_LOW;
const uint SIZE_AFTER = FIRST_POWERS + TILE_N / 4;
#else
const uint SIZE_AFTER = SIZE_SUMS;
#endif

shared STAGED staged[SIZE_A + SIZE_B > SIZE_AFTER ? SIZE_A + SIZE_B : SIZE_AFTER];

void fetch(uint row, uint column, uint k);
void stage();
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

#ifdef HALVES
#include "low_units.glsl"
void store_square(uint row, uint apart, uint column, uvec4 bits[4], vec4 low[4]);
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
  fetch(row, column, begin);
  for (uint step = begin; step < end; step += DEPTH) {
    barrier();
    stage();
    barrier();
    if (step + DEPTH < end) {
      fetch(row, column, step + DEPTH);
    }
    [[unroll]] for (uint k = 0; k < DEPTH; k += UNIT_K) {
      coopmat<FACTOR, gl_ScopeSubgroup, UNIT, UNIT_K, gl_MatrixUseA> a[TERMS * UNITS_M];
      [[unroll]] for (uint t = 0; t < TERMS; t++) {
        [[unroll]] for (uint m = 0; m < UNITS_M; m++) {
          const uint first = PLACE_A(t * TILE_M + warp_m + m * UNIT, k);
          coopMatLoad(a[t * UNITS_M + m], staged, first, PITCH_A, LAYOUT_A);
        }
      }
      [[unroll]] for (uint n = 0; n < UNITS_N; n++) {
        coopmat<FACTOR, gl_ScopeSubgroup, UNIT_K, UNIT, gl_MatrixUseB> b;
        const uint first = SIZE_A + PLACE_B(warp_n + n * UNIT, k);
        coopMatLoad(b, staged, first, PITCH_B, LAYOUT_B);
        [[unroll]] for (uint m = 0; m < UNITS_M; m++) {
          [[unroll]] for (uint t = 0; t < TERMS; t++) {
            sums[m * UNITS_N + n] = coopMatMulAdd(a[t * UNITS_M + m], b, sums[m * UNITS_N + n]);
          }
        }
      }
    }
  }
  // Only matrix units know which thread has which sum, so they go by way of shared memory.
  const uint base = gl_SubgroupID * UNIT * PITCH_SUMS;
  barrier();
#ifdef HALVES
  coopmat<float16_t, gl_ScopeSubgroup, UNIT, UNIT, gl_MatrixUseB> ups[2 * UNITS_N];
#ifdef SHARED
  if (!keeps_sums())
#endif
  {
    stage_low(row, column);
    barrier();
    [[unroll]] for (uint u = 0; u < 2 * UNITS_N; u++) {
      const uint first = (warp_n + u / 2 * UNIT) * PITCH_LOW + u % 2 * 2;
      coopMatLoad(ups[u], staged, first, PITCH_LOW, gl_CooperativeMatrixLayoutColumnMajor);
    }
    barrier();
  }
#endif
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
#ifdef HALVES
      subgroupBarrier();
      coopmat<float16_t, gl_ScopeSubgroup, UNIT, UNIT, gl_MatrixUseA> lows[2];
      const uint first = FIRST_LOW + (warp_m + m * UNIT) * PITCH_LOW;
      [[unroll]] for (uint u = 0; u < 2; u++) {
        coopMatLoad(lows[u], staged, first + 2 * u, PITCH_LOW,
                    gl_CooperativeMatrixLayoutRowMajor);
      }
      [[unroll]] for (uint n = 0; n < STRIP / UNIT; n++) {
        const uint u = 2 * (strip / UNIT + n);
        coopmat<float, gl_ScopeSubgroup, UNIT, UNIT, gl_MatrixUseAccumulator> part;
        part = coopmat<float, gl_ScopeSubgroup, UNIT, UNIT, gl_MatrixUseAccumulator>(0);
        part = coopMatMulAdd(lows[1], ups[u], part);
        part = coopMatMulAdd(lows[0], ups[u + 1], part);
        part = coopMatMulAdd(lows[0], ups[u], part);
        coopMatStore(part, staged, base + n * UNIT * 4 / STAGED_BYTES, PITCH_SUMS,
                     gl_CooperativeMatrixLayoutRowMajor);
      }
      subgroupBarrier();
      vec4 low[4];
      [[unroll]] for (uint r = 0; r < 4; r++) {
        const uint own = base + (line + r * APART) * PITCH_SUMS + quad;
        low[r] = low_part(own, own_row + r * APART, own_column);
      }
      store_square(row + own_row, APART, column + own_column, bits, low);
#else
      store_square(row + own_row, APART, column + own_column, bits);
#endif
    }
    subgroupBarrier();
  }
}

void multiply_tile(uint row, uint column) {
  multiply_tile(row, column, 0, INNER);
}
