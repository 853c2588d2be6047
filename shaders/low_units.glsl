// An adapter's part of a tile, low b^T with low [rows, RANK] and b [columns, RANK] in f32, on matrix units.
//
// A line is a row of low or of b, with zeros up to UNIT numbers. It is divided by a power of two, and each
// number becomes the sum of two f16, high and low, together 22 bits; of their four products all but the
// smallest are added up in f32, and multiplied by both lines' powers in the end.
//
// units.glsl includes it with HALVES. In `staged` b's lines come first, where the strips of sums are once b
// is in registers, low's from FIRST_LOW on, and from FIRST_POWERS on the powers of b's lines. A line has
// its high halves, its low ones, and 16 bytes more, against bank conflicts; those of low begin with its power.
//
// The includer of units.glsl, whose STAGED is uvec4, also defines
//   fetch_low(row, column, lows, ups)  reads the lines thread, thread + WORKGROUP, ... of the tile, of low
//                                      and in the order of the places of b; 4 quads each

#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "halves.glsl"
#include "power.glsl"

const uint LOW_EACH = (TILE_M + WORKGROUP - 1) / WORKGROUP;
const uint UP_EACH = (TILE_N + WORKGROUP - 1) / WORKGROUP;
const uint LOW_QUADS = 4 * LOW_EACH;
const uint UP_QUADS = 4 * UP_EACH;

void fetch_low(uint row, uint column, out vec4 lows[LOW_QUADS], out vec4 ups[UP_QUADS]);

void stage_eight(uint at, vec4 a, vec4 b) {
  const vec4 high_a = rounded(a), high_b = rounded(b);
  staged[at] = uvec4(to_halves(high_a), to_halves(high_b));
  staged[at + 2] = uvec4(to_halves(a - high_a), to_halves(b - high_b));
}

// Writes a line to `staged`, from `at` on, and returns the bits of its power.
uint stage_line(uint at, vec4 a, vec4 b, vec4 c, vec4 d) {
  const vec4 top = max(max(abs(a), abs(b)), max(abs(c), abs(d)));
  const float power = power_below(floatBitsToUint(max(max(top.x, top.y), max(top.z, top.w))));
  const float inverse = inverse_of(power);
  stage_eight(at, inverse * a, inverse * b);
  stage_eight(at + 1, inverse * c, inverse * d);
  return floatBitsToUint(power);
}

void stage_low(uint row, uint column) {
  vec4 lows[LOW_QUADS], ups[UP_QUADS];
  fetch_low(row, column, lows, ups);
  [[unroll]] for (uint i = 0; i < UP_EACH; i++) {
    const uint line = gl_LocalInvocationIndex + i * WORKGROUP;
    if (line < TILE_N) {
      staged[FIRST_POWERS + line / 4][line % 4] =
          stage_line(line * PITCH_LOW, ups[4 * i], ups[4 * i + 1], ups[4 * i + 2], ups[4 * i + 3]);
    }
  }
  [[unroll]] for (uint i = 0; i < LOW_EACH; i++) {
    const uint line = gl_LocalInvocationIndex + i * WORKGROUP;
    const uint at = FIRST_LOW + line * PITCH_LOW;
    if (line < TILE_M) {
      staged[at + 4].x =
          stage_line(at, lows[4 * i], lows[4 * i + 1], lows[4 * i + 2], lows[4 * i + 3]);
    }
  }
}

// Four numbers of the part, of a row and from a place of b on, whose sums lie in `staged` at `sums`.
vec4 low_part(uint sums, uint row, uint place) {
  const float power = uintBitsToFloat(staged[FIRST_LOW + row * PITCH_LOW + 4].x);
  return uintBitsToFloat(staged[sums]) * power * uintBitsToFloat(staged[FIRST_POWERS + place / 4]);
}
