// What attention_dq_cm.comp and attention_dkv_cm.comp have in common.
//
// A workgroup has OWN rows of its own, of queries or of keys, and lets the others pass by in tiles. There
// are two products for each pair: its score, query times key, and the change of its probability, dout
// times value. Half of the subgroups have the rows of the first product in registers, half those of the
// second. Between them threads turn scores and changes into p and ds, which are then multiplied by the
// tile that passes by.
//
// The includer, beside what attention_units.glsl asks for, declares KV_HEADS, SCALE, SUMS and AHEAD, defines
//   own(product, row, part), other(product, row, part)  eight items of an operand
//   fetch_more(tile), prepare(tile)  what weigh needs of a tile besides, while it is fetched and staged
//   weigh(row, column, p, ds)       scores and changes in, p and ds out, for COLUMNS columns
//   store(sum, row, column, a, b)   four sums from `column` on, and four from WIDTH / 2 on behind them
// and calls `pass(low, high)`. Sums are ds times what scores are of or, with SUMS 2, first p times what
// changes are of, then that. AHEAD, a tile is on its way to registers while the one before it is worked
// on; with two sums there are not enough of them.
const uint WORKGROUP = 128;
const uint OWN = WORKGROUP / 4;
const uint TILE = 16;
#include "attention_units.glsl"

const uint PRODUCTS = 2;
const uint SCORES = OWN * PITCH_SCORES;
const uint SUMS_N = WIDTH / 2 / UNIT;  // matrices of a sum's columns that a subgroup has
const uint PITCH_SUMS = WIDTH / 4 + 1;
const uint COLUMNS = OWN * TILE / WORKGROUP;  // scores of a thread

shared uvec4 scores[PRODUCTS * SCORES];

Eight own(uint product, uint row, uint part);
Eight other(uint product, uint row, uint part);
void fetch_more(int tile);
void prepare(int tile);
void weigh(uint row, uint column, inout float p[COLUMNS], inout float ds[COLUMNS]);
void store(uint sum, uint row, uint column, vec4 a, vec4 b);

void fetch_own(uint some) {
  [[unroll]] for (uint i = 0; i < LOADS; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    next[i] = own(0, some + item / EIGHTS, item % EIGHTS);
    next[LOADS + i] = own(1, some + item / EIGHTS, item % EIGHTS);
  }
}

void fetch_others(int tile) {
  [[unroll]] for (uint i = 0; i < LOADS; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    next[i] = other(0, uint(tile) + item / EIGHTS, item % EIGHTS);
    next[LOADS + i] = other(1, uint(tile) + item / EIGHTS, item % EIGHTS);
  }
  fetch_more(tile);
}

// Four items of a row, as high halves and, behind those of the row, as low ones.
void put_halves(uint at, uint column, vec4 x) {
  const vec4 high = rounded(x);
  const uvec2 halves[2] = {to_halves(high), to_halves(x - high)};
  [[unroll]] for (uint i = 0; i < 2; i++) {
    const uint place = at + i * (TILE / 8) + column / 8;
    scores[place][column / 4 % 2 * 2] = halves[i].x;
    scores[place][column / 4 % 2 * 2 + 1] = halves[i].y;
  }
}

// Four threads side by side have a row's scores, and write what becomes of them over it.
void weigh_tile() {
  const uint row = gl_LocalInvocationIndex / 4, column = gl_LocalInvocationIndex % 4 * COLUMNS;
  const uint at = row * PITCH_SCORES;
  float p[COLUMNS], ds[COLUMNS];
  [[unroll]] for (uint i = 0; i < COLUMNS; i++) {
    p[i] = uintBitsToFloat(scores[at + (column + i) / 4][i % 4]);
    ds[i] = uintBitsToFloat(scores[SCORES + at + (column + i) / 4][i % 4]);
  }
  weigh(row, column, p, ds);
  subgroupBarrier();
  [[unroll]] for (uint i = 0; i < COLUMNS; i += 4) {
    if (SUMS == 2) {
      put_halves(at, column + i, vec4(p[i], p[i + 1], p[i + 2], p[i + 3]));
    }
    put_halves(SCORES + at, column + i, vec4(ds[i], ds[i + 1], ds[i + 2], ds[i + 3]));
  }
}

// All in one function, so that the sums are local to it and stay in registers.
void pass(int low, int high) {
  const uint product = gl_SubgroupID % PRODUCTS;
  const uint strip = gl_SubgroupID / PRODUCTS * UNIT;
  const uint first_unit = product * SUMS_N;
  MATRIX(float16_t, A) rows[2 * STEPS];
  [[unroll]] for (uint some = 0; some < OWN; some += TILE) {
    fetch_own(some);
    barrier();
    stage(0, 0);
    stage(LOADS, 2);
    barrier();
    if (strip / TILE * TILE == some) {
      [[unroll]] for (uint k = 0; k < STEPS; k++) {
        const uint at = product * 2 * AREA + strip % TILE * PITCH + 2 * k;
        coopMatLoad(rows[k], tiles, at, ROWS_APART(PITCH));
        coopMatLoad(rows[STEPS + k], tiles, at + AREA, ROWS_APART(PITCH));
      }
    }
  }
  MATRIX(float, Accumulator) sums[SUMS * SUMS_N];
  [[unroll]] for (uint i = 0; i < SUMS * SUMS_N; i++) {
    sums[i] = MATRIX(float, Accumulator)(0);
  }
  if (AHEAD) {
    fetch_others(low);
  }
  for (int tile = low; tile <= high; tile += int(TILE)) {
    if (!AHEAD) {
      fetch_others(tile);
    }
    barrier();
    stage(0, 0);
    stage(LOADS, 2);
    prepare(tile);
    barrier();
    if (AHEAD && tile + int(TILE) <= high) {
      fetch_others(tile + int(TILE));
    }
    DOTS(rows, 2 * product, product * SCORES + strip * PITCH_SCORES)
    barrier();
    weigh_tile();
    barrier();
    [[unroll]] for (uint k = 0; k < TILE / UNIT; k++) {
      [[unroll]] for (uint s = 0; s < SUMS; s++) {
        const uint of = s + 1 < SUMS ? 0 : 1;  // p before ds
        MATRIX(float16_t, A) weights[2];
        const uint from = of * SCORES + strip * PITCH_SCORES + 2 * k;
        coopMatLoad(weights[0], scores, from, ROWS_APART(PITCH_SCORES));
        coopMatLoad(weights[1], scores, from + TILE / 8, ROWS_APART(PITCH_SCORES));
        [[unroll]] for (uint i = 0; i < 3 * SUMS_N; i++) {
          MATRIX(float16_t, B) factor;
          const uint turn = i / SUMS_N, n = i % SUMS_N;  // high by high, low by high, high by low
          const uint area = (1 - of) * 2 + turn / 2;
          const uint at = area * AREA + k * UNIT * PITCH + 2 * (first_unit + n);
          coopMatLoad(factor, tiles, at, ROWS_APART(PITCH));
          sums[s * SUMS_N + n] =
              coopMatMulAdd(weights[turn % 2], factor, sums[s * SUMS_N + n]);
        }
      }
    }
  }
  // Only matrix units know which thread has which sum, so they go by way of shared memory.
  [[unroll]] for (uint some = 0; some < SUMS * OWN; some += 2 * TILE) {
    barrier();
    [[unroll]] for (uint s = 0; s < SUMS; s++) {
      const uint row = s * OWN + strip;
      if (row / (2 * TILE) * 2 * TILE == some) {
        [[unroll]] for (uint i = 0; i < SUMS_N; i++) {
          const uint at = (row - some) * PITCH_SUMS + (first_unit + i) * UNIT / 4;
          coopMatStore(sums[s * SUMS_N + i], tiles, at, ROWS_APART(PITCH_SUMS));
        }
      }
    }
    barrier();
    for (uint item = gl_LocalInvocationIndex; item < 2 * ITEMS; item += WORKGROUP) {
      const uint row = some + item / EIGHTS, quad = item % EIGHTS;
      const uint at = (row - some) * PITCH_SUMS + quad;
      if (row < SUMS * OWN) {
        const vec4 a = uintBitsToFloat(tiles[at]), b = uintBitsToFloat(tiles[at + WIDTH / 8]);
        store(row / OWN, row % OWN, 4 * quad, a, b);
      }
    }
  }
}

// The operands of both kernels.
layout(binding = 0, std430) readonly buffer Q4 { vec4 q4[]; };
layout(binding = 1, std430) readonly buffer K4 { vec4 k4[]; };
layout(binding = 2, std430) readonly buffer V4 { vec4 v4[]; };
layout(binding = 3, std430) readonly buffer Lse { float lse[]; };
layout(binding = 4, std430) readonly buffer Delta { float delta[]; };
layout(binding = 5, std430) readonly buffer Dout4 { vec4 dout4[]; };
layout(binding = 6, std430) readonly buffer Power { float power[]; };
layout(binding = 7, std430) readonly buffer First { int first[]; };
layout(binding = 8, std430) readonly buffer Last { int last[]; };

shared int low;
shared int high;

// Of a line: q, or dout with its power.
Eight of_query(uint product, uint line, uint part) {
  if (line >= LINES) {
    return Eight(vec4(0), vec4(0), 1);
  }
  const uint place = place_of(line), at = place * (WIDTH / 4) + 2 * part;
  if (product == 0) {
    return Eight(q4[at], q4[at + 1], 1);
  }
  return Eight(dout4[at], dout4[at + 1], power[place]);
}

// Of a key: k or v.
Eight of_key(uint product, uint key, uint part) {
  if (key >= KEYS) {
    return Eight(vec4(0), vec4(0), 1);
  }
  const uint at = (key * KV_HEADS + first_head() / (HEADS / KV_HEADS)) * (WIDTH / 4) + 2 * part;
  if (product == 0) {
    return Eight(k4[at], k4[at + 1], 1);
  }
  return Eight(v4[at], v4[at + 1], 1);
}

// The pair of quads `column` and `column` + WIDTH / 2 of a row of the table turned back, if there is one.
#ifdef ROTATED
layout(binding = AT_table, std430) readonly buffer Table4 { vec4 table4[]; };

void unrotate(inout vec4 a, inout vec4 b, uint row, uint column) {
  const uint at = (row * WIDTH + column) / 4;
  const vec4 c = table4[at], s = table4[at + WIDTH / 8], x = a;
  a = x * c + b * s;
  b = b * c - x * s;
}
#else
void unrotate(inout vec4 a, inout vec4 b, uint row, uint column) {}
#endif
