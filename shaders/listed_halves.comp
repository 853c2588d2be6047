#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// listed_halves: the listed rows of h one after the other as sums of TERMS rows of f16, each divided by
// the power of two that row_power gives of it: what the first term is short of h is in the second. Each
// term is in panels (panels.glsl), or with LINES row by row; what rows behind the listed ones have does
// not matter. One workgroup a row.
//
// Reference: the operands of cross_entropy_cm and logits_grad_cm, with LINES of logits_nv. WIDTH is a
// multiple of 8, HIGH of 128.
// Bindings:
//   0 read  h      f32[ROWS,WIDTH]
//   1 read  rows   u32[ROWS]
//   2 read  count  u32[1]
//   3 write power  f32[ROWS]
//   4 write halves f16[TERMS,HIGH,WIDTH]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint WIDTH = 4;
layout(constant_id = 2) const uint TERMS = 1;
layout(constant_id = 3) const uint HIGH = 128;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer H4 { vec4 h4[]; };
layout(binding = 1, std430) readonly buffer Rows { uint rows[]; };
layout(binding = 2, std430) readonly buffer Count { uint count[]; };
layout(binding = 3, std430) writeonly buffer Power { float power[]; };
layout(binding = 4, std430) writeonly buffer Halves { uvec2 halves[]; };
#include "halves.glsl"
#include "index.glsl"
#include "panels.glsl"
#include "power.glsl"
#include "reduce.glsl"

const uint WIDTH4 = WIDTH / 4;

float power_of(uint row) {
  float largest = 0;
  for (uint i = gl_LocalInvocationIndex; i < WIDTH4; i += gl_WorkGroupSize.x) {
    const vec4 quad = abs(h4[row * WIDTH4 + i]);
    largest = max(max(max(quad.x, quad.y), max(quad.z, quad.w)), largest);
  }
  return power_below(workgroup_max(floatBitsToUint(largest)));
}

void main() {
  const uint place = group();
  if (place < ROWS && place < count[0]) {
    const uint row = rows[place];
    const float divisor = power_of(row);
    if (gl_LocalInvocationIndex == 0) {
      power[row] = divisor;
    }
    for (uint i = gl_LocalInvocationIndex; i < WIDTH4; i += gl_WorkGroupSize.x) {
      vec4 rest = h4[row * WIDTH4 + i] / divisor;
      for (uint term = 0; term < TERMS; term++) {
        // What f16 holds, cut off: NVIDIA's compiler takes what is rounded and widened for x itself.
        vec4 part = rest;
        if (term + 1 < TERMS) {
          part = uintBitsToFloat(floatBitsToUint(rest) & 0xFFFFE000);
        }
        rest -= part;
#ifdef LINES
        const uint at = place * (WIDTH / 8) + i / 2;
#else
        const uint at = place_in_panels(place, i / 2, WIDTH / 8);
#endif
        halves[2 * (term * HIGH * (WIDTH / 8) + at) + i % 2] = to_halves(part);
      }
    }
  }
}
