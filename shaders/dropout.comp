#version 460
#extension GL_GOOGLE_include_directive : require
// dropout: y = x / (1 - P) where the random number of the element is at least P, else 0.
//
// The number of element i is word i % 4 of philox at (i / 4, draw, STREAM, 0) under SEED.
//
// Reference: op dropout.
// Bindings:
//   0 read  x    f32[COUNT]
//   1 read  draw i32[]
//   2 write y    f32[COUNT] over x
layout(constant_id = 0) const uint COUNT = 1;
layout(constant_id = 1) const float P = 0.1;
layout(constant_id = 2) const float FACTOR = 1.0;
layout(constant_id = 3) const uint STREAM = 0;
layout(constant_id = 4) const uint SEED = 0;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) readonly buffer Draw { int draw; };
layout(binding = 2, std430) writeonly buffer Y { float y[]; };
#include "index.glsl"
#include "philox.glsl"

void main() {
  const uint quad = item();
  if (quad >= (COUNT + 3) / 4) {
    return;
  }
  const uvec4 words = philox(uvec4(quad, uint(draw), STREAM, 0), SEED);
  for (uint k = 0; k < 4; k++) {
    const uint i = 4 * quad + k;
    if (i < COUNT) {
      y[i] = unit_interval(words[k]) < P ? 0 : x[i] * FACTOR;
    }
  }
}
