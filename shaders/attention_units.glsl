// Tiles of attention on matrix units (GL_KHR_cooperative_matrix), for attention_cm.comp and, by way of
// attention_grad_units.glsl, attention_dq_cm.comp and attention_dkv_cm.comp.
//
// A line is a query of one head. A workgroup works on lines of SHARE heads that have the same keys:
// line n is query n / SHARE of its head n % SHARE, so a tile of keys serves all of them.
//
// Products of f32 are made of halves: each factor is the sum of two f16, high and low, together 22 bits,
// and of their four products all but the smallest are added up in f32. The halves are made on the way
// to shared memory, whose rows have 16 bytes more than their items, against bank conflicts. What matrix
// units read there is declared as uvec4, so that it begins where 16 bytes do.
//
// The includer declares ROWS, KEYS, HEADS, WIDTH, a multiple of 32 and at most 128, SUBGROUP_SIZE, SHARE,
// WORKGROUP, OWN, the lines or keys that a workgroup has, and TILE, those that pass through shared memory
// together, and defines first_head().

#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "halves.glsl"
#include "power.glsl"

const uint UNIT = 16;
const uint STEPS = WIDTH / UNIT;     // products of two matrices along a row
const uint PITCH = WIDTH / 8 + 1;    // of a row of halves
const uint AREA = TILE * PITCH;
const uint PITCH_SCORES = TILE / 4 + 1;
const uint EIGHTS = WIDTH / 8;       // of a row, eight items each
const uint ITEMS = TILE * EIGHTS;
const uint LOADS = (ITEMS + WORKGROUP - 1) / WORKGROUP;
const uint LINES = ROWS * SHARE;

#define MATRIX(TYPE, USE) coopmat<TYPE, gl_ScopeSubgroup, UNIT, UNIT, gl_MatrixUse##USE>
#define ROWS_APART(PLACES) PLACES, gl_CooperativeMatrixLayoutRowMajor
#define COLUMNS_APART(PLACES) PLACES, gl_CooperativeMatrixLayoutColumnMajor

// Two operands, of each the high and then the low halves of a tile.
shared uvec4 tiles[4 * AREA];

// Eight items of a row, and the power of two that they are to be divided by.
struct Eight {
  vec4 a, b;
  float power;
};

Eight next[2 * LOADS];

uint first_head();

// Where a line lies among all queries of all heads.
uint place_of(uint line) {
  return line / SHARE * HEADS + first_head() + line % SHARE;
}

// Splits a tile of an operand, from next[first] on, into the areas `area` and the next one.
void stage(uint first, uint area) {
  [[unroll]] for (uint i = 0; i < LOADS; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    const uint at = area * AREA + item / EIGHTS * PITCH + item % EIGHTS;
    if (ITEMS % WORKGROUP != 0 && item >= ITEMS) {
      break;
    }
    const float inverse = inverse_of(next[first + i].power);
    const vec4 a = inverse * next[first + i].a, b = inverse * next[first + i].b;
    const vec4 high_a = rounded(a), high_b = rounded(b);
    tiles[at] = uvec4(to_halves(high_a), to_halves(high_b));
    tiles[at + AREA] = uvec4(to_halves(a - high_a), to_halves(b - high_b));
  }
}

// Leaves at scores[TO ..] the dot products of 16 rows, whose high and low halves are FACTORS, with the
// rows of the tile in the area AREA_OF_IT and the next one. As a macro, since matrices are no arguments;
// what does not depend on each other takes turns.
#define DOTS(FACTORS, AREA_OF_IT, TO)                                                            \
  {                                                                                              \
    MATRIX(float, Accumulator) dots[TILE / UNIT];                                                \
    MATRIX(float, Accumulator) rest[TILE / UNIT];                                                \
    [[unroll]] for (uint n = 0; n < TILE / UNIT; n++) {                                          \
      dots[n] = MATRIX(float, Accumulator)(0);                                                   \
      rest[n] = MATRIX(float, Accumulator)(0);                                                   \
    }                                                                                            \
    [[unroll]] for (uint k = 0; k < STEPS; k++) {                                                \
      MATRIX(float16_t, B) upper[TILE / UNIT];                                                   \
      MATRIX(float16_t, B) lower[TILE / UNIT];                                                   \
      [[unroll]] for (uint n = 0; n < TILE / UNIT; n++) {                                        \
        const uint at = (AREA_OF_IT) * AREA + n * UNIT * PITCH + 2 * k;                          \
        coopMatLoad(upper[n], tiles, at, COLUMNS_APART(PITCH));                                  \
        coopMatLoad(lower[n], tiles, at + AREA, COLUMNS_APART(PITCH));                           \
      }                                                                                          \
      [[unroll]] for (uint n = 0; n < TILE / UNIT; n++) {                                        \
        dots[n] = coopMatMulAdd(FACTORS[k], upper[n], dots[n]);                                  \
      }                                                                                          \
      [[unroll]] for (uint n = 0; n < TILE / UNIT; n++) {                                        \
        rest[n] = coopMatMulAdd(FACTORS[STEPS + k], upper[n], rest[n]);                          \
      }                                                                                          \
      [[unroll]] for (uint n = 0; n < TILE / UNIT; n++) {                                        \
        rest[n] = coopMatMulAdd(FACTORS[k], lower[n], rest[n]);                                  \
      }                                                                                          \
    }                                                                                            \
    [[unroll]] for (uint n = 0; n < TILE / UNIT; n++) {                                          \
      dots[n] = dots[n] + rest[n];                                                               \
      coopMatStore(dots[n], scores, (TO) + n * UNIT / 4, ROWS_APART(PITCH_SCORES));              \
    }                                                                                            \
  }
