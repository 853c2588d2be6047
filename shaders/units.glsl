// One tile of a matrix product on matrix units (GL_KHR_cooperative_matrix), by one workgroup.
//
// A workgroup has TILE_M x TILE_N sums, each subgroup WARP_M x WARP_N of them in registers. UNIT_K values
// of k at a time go through one of two halves of shared memory: while they are multiplied, the next are
// written to the other half, and those behind them are on their way to one of two sets of registers. So
// one barrier for each is enough, and what is read has the time of two products to arrive. Two halves of
// short steps take no more room than one of a long step, and two workgroups run at a time.
//
// The ways to shared memory and to the first cache are one, and it binds. So operands should lie such that
// eight threads side by side read 128 bytes side by side (panels.glsl), and write to eight lines of shared
// memory, whose pitch is an odd number of 16 bytes. Nor should what is read depend on a condition.
//
// The includer has the constants INNER, a multiple of DEPTH, TILE_M, TILE_N, WARP_M, WARP_N,
// SUBGROUP_SIZE and WORKGROUP, and defines
//   FACTOR, SUM           types of what is multiplied and added
//   UNIT_K                values of k of one product of two matrices
//   STAGED, STAGED_BYTES  the vector of uint that shared memory is made of, and its size
//   TERMS                 1, or 2 if a is the sum of two matrices: each half then has one of them, for
//                         the same k, and both are multiplied by the same b
//   SIZE_A, PITCH_A, LAYOUT_A, PLACE_A(row)  vectors of a in a half, from one of its lines to the next,
//                         whether lines are rows or columns, and where a row begins
//   SIZE_B, PITCH_B, LAYOUT_B, PLACE_B(column)  the same of b
//   fetch_a(set, row, k)  reads UNIT_K values of k of the tile's rows into set 0 or 1 of registers
//   fetch_b(set, column, k)  the same of its columns
//   stage_a(first, set), stage_b(first, set)  write a set to `staged`, from there on
//   quad_at(place)        16 bytes of `staged` from there on
//   store_quad(row, column, bits)  takes the bits of four sums of a row; or, with OWN_SQUARES defined,
//   store_square(row, apart, column, bits)  takes those of the rows row, row + apart, ... together
// With SHARED defined, tiles may be shared: see share.glsl. With HALVES store_square(row, apart, column,
// bits, low) also takes an adapter's part of these sums: see low_units.glsl. With JOINED, where FACTOR is
// float16_t, the products of MEMBERS adapters are added to the sums of tiles that are not shared:
//   stage_adapter(adapter, row, column)  writes both factors of one, UNIT_K values of k, to `staged`:
//                         their high halves to the first half of a and of b, the low ones to the second
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
const uint SIZE_HALVES = 2 * (SIZE_A + SIZE_B);
const uint DEPTH = 2 * UNIT_K / TERMS;  // values of k of both halves
#ifdef HALVES
const uint PITCH_LOW = 5;
const uint FIRST_LOW = SIZE_SUMS > TILE_N * PITCH_LOW ? SIZE_SUMS : TILE_N * PITCH_LOW;
const uint FIRST_POWERS = FIRST_LOW + TILE_M * PITCH_LOW;
const uint SIZE_AFTER = FIRST_POWERS + TILE_N / 4;
#else
const uint SIZE_AFTER = SIZE_SUMS;
#endif

shared STAGED staged[SIZE_HALVES > SIZE_AFTER ? SIZE_HALVES : SIZE_AFTER];

void fetch_a(uint set, uint row, uint k);
void fetch_b(uint set, uint column, uint k);
void stage_a(uint first, uint set);
void stage_b(uint first, uint set);
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

#ifdef JOINED
void stage_adapter(uint adapter, uint row, uint column);
#endif
#ifdef HALVES
#include "low_units.glsl"
void store_square(uint row, uint apart, uint column, uvec4 bits[4], vec4 low[4]);
#endif
#ifdef SHARED
bool keeps_sums();
void keep_square(uint row, uint apart, uint column, uvec4 bits[4]);
#endif

// Where half u of a and half v of b are, and which values of a step half u has.
uint half_of_a(uint u) {
  return u * SIZE_A;
}

uint half_of_b(uint v) {
  return 2 * SIZE_A + v * SIZE_B;
}

uint own_k(uint u) {
  return TERMS == 1 ? u * UNIT_K : 0;
}

// Adds what is at FIRST_A and FIRST_B, multiplied, to `sums`. A macro, since matrices are no arguments.
#define ADD_PRODUCTS(FIRST_A, FIRST_B)                                                           \
  {                                                                                              \
    coopmat<FACTOR, gl_ScopeSubgroup, UNIT, UNIT_K, gl_MatrixUseA> a[UNITS_M];                   \
    [[unroll]] for (uint m = 0; m < UNITS_M; m++) {                                              \
      coopMatLoad(a[m], staged, (FIRST_A) + PLACE_A(warp_m + m * UNIT), PITCH_A, LAYOUT_A);      \
    }                                                                                            \
    [[unroll]] for (uint n = 0; n < UNITS_N; n++) {                                              \
      coopmat<FACTOR, gl_ScopeSubgroup, UNIT_K, UNIT, gl_MatrixUseB> b;                          \
      coopMatLoad(b, staged, (FIRST_B) + PLACE_B(warp_n + n * UNIT), PITCH_B, LAYOUT_B);         \
      [[unroll]] for (uint m = 0; m < UNITS_M; m++) {                                            \
        sums[m * UNITS_N + n] = coopMatMulAdd(a[m], b, sums[m * UNITS_N + n]);                   \
      }                                                                                          \
    }                                                                                            \
  }

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
  const uint last = end - UNIT_K;
  fetch_a(0, row, begin);
  fetch_b(0, column, begin);
  fetch_a(1, row, begin + own_k(1));
  stage_a(half_of_a(0), 0);
  fetch_a(0, row, min(begin + DEPTH, last));
  if (TERMS == 1) {
    fetch_b(1, column, begin + own_k(1));
  }
  stage_b(half_of_b(0), 0);
  fetch_b(0, column, min(begin + DEPTH, last));
  barrier();
  uint turn = 0;  // of the halves of b, if both terms have the same
  for (uint step = begin; step < end; step += DEPTH) {
    [[unroll]] for (uint u = 0; u < 2; u++) {
      ADD_PRODUCTS(half_of_a(u), half_of_b(TERMS == 1 ? u : turn))
      const uint next = min(step + (1 + u) * DEPTH + own_k(1 - u), last);
      stage_a(half_of_a(1 - u), 1 - u);
      if (TERMS == 1) {
        stage_b(half_of_b(1 - u), 1 - u);
        fetch_a(1 - u, row, next);
        fetch_b(1 - u, column, next);
      } else if (u == 1) {
        stage_b(half_of_b(1 - turn), 0);
        fetch_a(0, row, next);
        fetch_b(0, column, next);
        turn = 1 - turn;
      } else {
        fetch_a(1, row, next);
      }
      barrier();
    }
  }
#ifdef JOINED
#ifdef SHARED
  if (!keeps_sums())
#endif
  {
    for (uint adapter = 0; adapter < MEMBERS; adapter++) {
      stage_adapter(adapter, row, column);
      barrier();
      [[unroll]] for (uint i = 0; i < 3; i++) {  // high by high, low by high, high by low
        ADD_PRODUCTS(half_of_a(i % 2), half_of_b(i / 2))
      }
      barrier();
    }
  }
#endif
  // Only matrix units know which thread has which sum, so they go by way of shared memory.
  const uint base = gl_SubgroupID * UNIT * PITCH_SUMS;
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
