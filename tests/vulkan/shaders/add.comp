#version 460
#extension GL_GOOGLE_include_directive : require
// add: y = x + SCALE * STEP, or x - SCALE * STEP where NEGATE; STEP may be negative.
//
// Bindings:
//   0 read  x f32[SIZE]
//   1 write y f32[SIZE]
#include "index.glsl"
layout(local_size_x_id = 4) in;
layout(constant_id = 0) const uint SIZE = 1;
layout(constant_id = 1) const float SCALE = 1.0;
layout(constant_id = 2) const int STEP = 1;
layout(constant_id = 3) const bool NEGATE = false;
layout(constant_id = 4) const uint WIDTH = 32;
layout(std430, binding = 0) readonly buffer X { float x[]; };
layout(std430, binding = 1) writeonly buffer Y { float y[]; };

void main() {
  const uint i = index();
  if (i < SIZE) {
    const float change = SCALE * float(STEP);
    y[i] = NEGATE ? x[i] - change : x[i] + change;
  }
}
