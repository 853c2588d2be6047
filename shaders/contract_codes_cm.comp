#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// contract_codes_cm: y = dy^T x with x in int8 codes, for each of PARTS parts of the LINES apart, on
// matrix units. They take codes as they are, which is exact, and dy over the scale of x's row as f16,
// each part divided by a power of two near its largest element, and add in f32.
//
// Reference: op contract_rows of dy and op dequantize; sum_parts adds. ROWS and COLUMNS are multiples
// of 16.
// Bindings:
//   0 read  dy    f32[LINES,ROWS]
//   1 read  power f32[LINES]
//   2 read  x     q8[LINES,COLUMNS]
//   3 write y     f32[PARTS,ROWS,COLUMNS]
layout(constant_id = 0) const uint LINES = 1;
layout(constant_id = 1) const uint ROWS = 16;
layout(constant_id = 2) const uint COLUMNS = 16;
layout(constant_id = 3) const uint PARTS = 1;
layout(constant_id = 4) const uint TILE_M = 128;
layout(constant_id = 5) const uint TILE_N = 128;
layout(constant_id = 6) const uint WARP_M = 64;
layout(constant_id = 7) const uint WARP_N = 32;
layout(constant_id = 8) const uint SUBGROUP_SIZE = 32;
layout(constant_id = 9) const uint WORKGROUP = 256;
layout(local_size_x_id = 9) in;
layout(binding = 0, std430) readonly buffer Dy4 { vec4 dy4[]; };
layout(binding = 1, std430) readonly buffer Power { float power[]; };
layout(binding = 2, std430) readonly buffer X { int x[]; };
layout(binding = 2, std430) readonly buffer X4 { ivec4 x4[]; };
layout(binding = 3, std430) writeonly buffer Y4 { vec4 y4[]; };

const uint UNIT_K = 16;
const uint STEPS = (LINES + 2 * UNIT_K - 1) / (2 * UNIT_K);
const uint INNER = (STEPS + PARTS - 1) / PARTS * 2 * UNIT_K;  // of a part
const uint PITCH_A = TILE_M / 4 + 2;  // a line's halves and 16 bytes more, against bank conflicts
const uint SIZE_A = UNIT_K * PITCH_A;
const uint PITCH_B = TILE_N / 4 + 2;
const uint SIZE_B = UNIT_K * PITCH_B;
#define FACTOR float16_t
#define TERMS 1
#define SUM float
#define STAGED uvec2
#define STAGED_BYTES 8
#define PLACE_A(row) ((row) / 4)
#define LAYOUT_A gl_CooperativeMatrixLayoutColumnMajor
#define PLACE_B(column) ((column) / 4)
#define LAYOUT_B gl_CooperativeMatrixLayoutRowMajor
#include "units.glsl"
#include "halves.glsl"
#include "index.glsl"
#include "reduce.glsl"

const uint TILES_M = (ROWS + TILE_M - 1) / TILE_M;
const uint TILES_N = (COLUMNS + TILE_N - 1) / TILE_N;
const uint QUADS_A = TILE_M / 4;  // of a line of dy
const uint LOADS_A = (UNIT_K * QUADS_A + WORKGROUP - 1) / WORKGROUP;
const uint QUADS_B = TILE_N / 16;  // of a line of codes, 16 in each
const uint LOADS_B = (UNIT_K * QUADS_B + WORKGROUP - 1) / WORKGROUP;
const uint LARGEST_LOG = 12;  // dy is at most 2^14 in f16

vec4 sets_a[2 * LOADS_A];
ivec4 sets_b[2 * LOADS_B];
uint exponent;  // of the part's power of two

uint part() {
  return group() / (TILES_M * TILES_N);
}

float x_scale(uint line) {
  return intBitsToFloat(x[LINES * (COLUMNS / 4) + line]);
}

// Held high enough that neither its inverse nor what is taken off it leaves the normal numbers.
void find_exponent() {
  const uint begin = part() * INNER, end = min(begin + INNER, LINES);
  uint top = 0;
  for (uint line = begin + gl_LocalInvocationIndex; line < end; line += WORKGROUP) {
    top = max(top, floatBitsToUint(power[line] / x_scale(line)));
  }
  exponent = clamp(workgroup_max(top) >> 23, 16, 253);
}

void fetch_a(uint set, uint row, uint k) {
  const float inverse = uintBitsToFloat((254 + LARGEST_LOG - exponent) << 23);
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    const uint line = part() * INNER + k + item / QUADS_A;
    const uint at = row + item % QUADS_A * 4;
    sets_a[set * LOADS_A + i] = vec4(0);
    if (IS_ITEM(item, UNIT_K * QUADS_A) && line < LINES && at < ROWS) {
      precise vec4 quad = dy4[(line * ROWS + at) / 4] * inverse;  // before the scale, or it overflows
      sets_a[set * LOADS_A + i] = quad / x_scale(line);
    }
  }
}

void fetch_b(uint set, uint column, uint k) {
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    const uint line = part() * INNER + k + item / QUADS_B;
    const uint at = column + item % QUADS_B * 16;
    sets_b[set * LOADS_B + i] = ivec4(0);
    if (IS_ITEM(item, UNIT_K * QUADS_B) && line < LINES && at < COLUMNS) {
      sets_b[set * LOADS_B + i] = x4[(line * COLUMNS + at) / 16];
    }
  }
}

uvec2 bytes_to_halves(int codes) {
  return to_halves(vec4(bitfieldExtract(codes, 0, 8), bitfieldExtract(codes, 8, 8),
                        bitfieldExtract(codes, 16, 8), bitfieldExtract(codes, 24, 8)));
}

void stage_a(uint first, uint set) {
  [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, UNIT_K * QUADS_A)) {
      const uint line = first + item / QUADS_A * PITCH_A;
      staged[line + item % QUADS_A] = to_halves(sets_a[set * LOADS_A + i]);
    }
  }
}

void stage_b(uint first, uint set) {
  [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    if (IS_ITEM(item, UNIT_K * QUADS_B)) {
      const uint line = first + item / QUADS_B * PITCH_B + item % QUADS_B * 4;
      [[unroll]] for (uint j = 0; j < 4; j++) {
        staged[line + j] = bytes_to_halves(sets_b[set * LOADS_B + i][j]);
      }
    }
  }
}

uvec4 quad_at(uint place) {
  return uvec4(staged[place], staged[place + 1]);
}

void store_quad(uint row, uint column, uvec4 bits) {
  if (row < ROWS && column < COLUMNS) {
    const vec4 sums = uintBitsToFloat(bits) * uintBitsToFloat((exponent - LARGEST_LOG) << 23);
    y4[((part() * ROWS + row) * COLUMNS + column) / 4] = sums;
  }
}

void main() {
  const uint row = group() / TILES_N % TILES_M * TILE_M;
  const uint column = group() % TILES_N * TILE_N;
  if (part() < PARTS) {
    find_exponent();
    multiply_tile(row, column);
  }
}
