// One tile of a matrix product on matrix units (GL_KHR_cooperative_matrix), by one workgroup.
//
// A workgroup has TILE_M x TILE_N sums, each subgroup WARP_M x WARP_N of them in registers. Each step
// takes DEPTH values of k through shared memory: while one half of it is multiplied, the next step's
// items are on their way, and then fill the other half.
//
// The includer has the constants INNER, a multiple of DEPTH, TILE_M, TILE_N, WARP_M, WARP_N,
// SUBGROUP_SIZE and WORKGROUP, and defines
//   FACTOR, SUM           types of what is multiplied and added
//   DEPTH, UNIT_K         values of k of a step, and of one product of two matrices
//   STAGED, STAGED_BYTES  the vector of uint that shared memory is made of, and its size
//   SIZE_A, PITCH_A, LAYOUT_A, PLACE_A(row, k)  vectors of a, from one of its lines to the next, whether
//                         lines are rows or columns, and where an item of it is
//   SIZE_B, PITCH_B, LAYOUT_B, PLACE_B(column, k)  the same of b
//   fetch(row, column, k)  reads items from k on into registers
//   stage(at)              writes them to `staged`: a from `at` on, b from at + SIZE_A on
//   quad_at(place)        16 bytes of `staged` from there on
//   store_quad(row, column, bits)  takes the bits of four sums of a row; or, with OWN_SQUARES defined,
//   store_square(row, apart, column, bits)  takes those of the rows row, row + apart, ... together
// WARP_N / 4 * UNIT is 4 * SUBGROUP_SIZE, so that each thread has four rows of a unit's height.

#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_control_flow_attributes : require

const uint UNIT = 16;
const uint UNITS_M = WARP_M / UNIT;
const uint UNITS_N = WARP_N / UNIT;
const uint WARPS_N = TILE_N / WARP_N;
const uint HALF = SIZE_A + SIZE_B;
const uint APART = UNIT / 4;  // rows between those that a thread stores
const uint PITCH_SUMS = (WARP_N + 4) * 4 / STAGED_BYTES;

shared STAGED staged[2 * HALF];

void fetch(uint row, uint column, uint k);
void stage(uint at);
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

// All in one function, so that the sums are local to it and stay in registers.
void multiply_tile(uint row, uint column) {
  const uint warp_m = gl_SubgroupID / WARPS_N * WARP_M;
  const uint warp_n = gl_SubgroupID % WARPS_N * WARP_N;
  coopmat<SUM, gl_ScopeSubgroup, UNIT, UNIT, gl_MatrixUseAccumulator> sums[UNITS_M * UNITS_N];
  [[unroll]] for (uint i = 0; i < UNITS_M * UNITS_N; i++) {
    sums[i] = coopmat<SUM, gl_ScopeSubgroup, UNIT, UNIT, gl_MatrixUseAccumulator>(0);
  }
  fetch(row, column, 0);
  stage(0);
  for (uint step = 0; step < INNER; step += DEPTH) {
    const uint at = step / DEPTH % 2 * HALF;
    barrier();
    if (step + DEPTH < INNER) {
      fetch(row, column, step + DEPTH);
    }
    [[unroll]] for (uint k = 0; k < DEPTH; k += UNIT_K) {
      coopmat<FACTOR, gl_ScopeSubgroup, UNIT, UNIT_K, gl_MatrixUseA> a[UNITS_M];
      [[unroll]] for (uint m = 0; m < UNITS_M; m++) {
        const uint first = at + PLACE_A(warp_m + m * UNIT, k);
        coopMatLoad(a[m], staged, first, PITCH_A, LAYOUT_A);
      }
      [[unroll]] for (uint n = 0; n < UNITS_N; n++) {
        coopmat<FACTOR, gl_ScopeSubgroup, UNIT_K, UNIT, gl_MatrixUseB> b;
        const uint first = at + SIZE_A + PLACE_B(warp_n + n * UNIT, k);
        coopMatLoad(b, staged, first, PITCH_B, LAYOUT_B);
        [[unroll]] for (uint m = 0; m < UNITS_M; m++) {
          sums[m * UNITS_N + n] = coopMatMulAdd(a[m], b, sums[m * UNITS_N + n]);
        }
      }
    }
    if (step + DEPTH < INNER) {
      stage(HALF - at);
    }
  }
  // Only matrix units know which thread has which sum, so they go by way of shared memory.
  const uint base = gl_SubgroupID * UNIT * PITCH_SUMS;
  barrier();
  [[unroll]] for (uint m = 0; m < UNITS_M; m++) {
    [[unroll]] for (uint n = 0; n < UNITS_N; n++) {
      const uint first = base + n * UNIT * 4 / STAGED_BYTES;
      coopMatStore(sums[m * UNITS_N + n], staged, first, PITCH_SUMS,
                   gl_CooperativeMatrixLayoutRowMajor);
    }
    subgroupBarrier();
    const uint line = gl_SubgroupInvocationID / (WARP_N / 4);
    const uint quad = gl_SubgroupInvocationID % (WARP_N / 4);
    uvec4 bits[4];
    [[unroll]] for (uint i = 0; i < 4; i++) {
      const uint place = base + (line + i * APART) * PITCH_SUMS;
      bits[i] = quad_at(place + quad * 16 / STAGED_BYTES);
    }
    store_square(row + warp_m + m * UNIT + line, APART, column + warp_n + 4 * quad, bits);
    subgroupBarrier();
  }
}
