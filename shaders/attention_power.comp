#version 460
#extension GL_GOOGLE_include_directive : require
// attention_power: the power of two below the largest magnitude in each row of dout and its delta, or
// equal to it, at most 2^126 and at least 2^-126; one invocation a row.
//
// Reference: the scales of attention_dq_cm and attention_dkv_cm. WIDTH is a multiple of 4.
// Bindings:
//   0 read  dout  f32[ROWS,HEADS,WIDTH]
//   1 read  delta f32[ROWS,HEADS]
//   2 write power f32[ROWS,HEADS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint HEADS = 1;
layout(constant_id = 2) const uint WIDTH = 4;
layout(local_size_x = 64) in;
layout(binding = 0, std430) readonly buffer Dout4 { vec4 dout4[]; };
layout(binding = 1, std430) readonly buffer Delta { float delta[]; };
layout(binding = 2, std430) writeonly buffer Power { float power[]; };
#include "index.glsl"
#include "power.glsl"

void main() {
  const uint row = item();
  if (row < ROWS * HEADS) {
    float largest = abs(delta[row]);
    for (uint i = 0; i < WIDTH / 4; i++) {
      const vec4 quad = abs(dout4[row * (WIDTH / 4) + i]);
      largest = max(largest, max(max(quad.x, quad.y), max(quad.z, quad.w)));
    }
    power[row] = power_below(floatBitsToUint(largest));
  }
}
