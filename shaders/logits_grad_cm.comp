#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
// logits_grad_cm: what logits_grad_f16 computes, on matrix units, each row divided by the larger of
// |spread| and |peak| and times 2^13, as f16: probabilities down to 2^-37 are not lost.
//
// Reference: op linear_cross_entropy_grad, before the product with the table. WIDTH is a multiple of
// 32, COLUMNS of 4.
// Bindings:
//   0 read  h       f16[TERMS,HIGH,WIDTH]
//   1 read  table   f16[COLUMNS,WIDTH]
//   2 read  targets i32[PITCH]
//   3 read  rows    u32[ROWS]
//   4 read  count   u32[1]
//   5 read  power   f32[ROWS]
//   6 read  spread  f32[ROWS]
//   7 read  peak    f32[ROWS]
//   8 read  lse     f32[ROWS]
//   9 write dz      f16[ROWS,COLUMNS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint WIDTH = 32;
layout(constant_id = 2) const uint COLUMNS = 4;
layout(constant_id = 3) const uint TERMS = 1;
layout(constant_id = 4) const uint TILE_M = 128;
layout(constant_id = 5) const uint TILE_N = 128;
layout(constant_id = 6) const uint WARP_M = 64;
layout(constant_id = 7) const uint WARP_N = 32;
layout(constant_id = 8) const uint SUBGROUP_SIZE = 32;
layout(constant_id = 9) const uint WORKGROUP = 256;
layout(constant_id = 10) const uint PITCH = 1;
layout(constant_id = 11) const uint HIGH = 128;
layout(local_size_x_id = 9) in;
layout(binding = 0, std430) readonly buffer H8 { uvec4 h8[]; };
layout(binding = 1, std430) readonly buffer Table8 { uvec4 table8[]; };
layout(binding = 2, std430) readonly buffer Targets { int targets[]; };
layout(binding = 3, std430) readonly buffer Rows { uint rows[]; };
layout(binding = 4, std430) readonly buffer Count { uint count[]; };
layout(binding = 5, std430) readonly buffer Power { float power[]; };
layout(binding = 6, std430) readonly buffer Spread { float spread[]; };
layout(binding = 7, std430) readonly buffer Peak { float peak[]; };
layout(binding = 8, std430) readonly buffer Lse { float lse[]; };
layout(binding = 9, std430) writeonly buffer Dz4 { uvec2 dz4[]; };
#include "logits_units.glsl"
#include "halves.glsl"
#include "gradient_scale.glsl"

void store_quad(uint place, uint column, uvec4 bits) {
  if (place < count[0] && column < COLUMNS) {
    const uint row = rows[place];
    vec4 dz = spread[row] * exp(power[row] * uintBitsToFloat(bits) - lse[row]);
    const int target = targets[row] - int(column);
    [[unroll]] for (uint j = 0; j < 4; j++) {
      if (target == int(j)) {
        dz[j] -= peak[row];
      }
    }
    dz *= LARGEST / gradient_scale(row);
    dz4[(place * COLUMNS + column) / 4] = to_halves(dz);
  }
}

void main() {
  if (first_place() < count[0] && first_column() < COLUMNS) {
    multiply_tile(first_place(), first_column());
  }
}
