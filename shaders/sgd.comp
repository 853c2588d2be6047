#version 460
#extension GL_GOOGLE_include_directive : require
// sgd: one step of gradient descent on COUNT parameters p with their momentum m, for gradients g
// times clip; nothing at all where clip is NaN.
//
// Reference: op sgd.
// Bindings:
//   0 update p    f32[COUNT]
//   1 read   g    f32[COUNT]
//   2 update m    f32[COUNT]
//   3 read   clip f32[]
//   4 read   lr   f32[]
layout(constant_id = 0) const uint COUNT = 1;
layout(constant_id = 1) const float MOMENTUM = 0.9;
layout(constant_id = 2) const float WEIGHT_DECAY = 0.0;
layout(local_size_x = 256) in;
layout(binding = 0, std430) buffer P { float p[]; };
layout(binding = 0, std430) buffer P4 { vec4 p4[]; };
layout(binding = 1, std430) readonly buffer G { float g[]; };
layout(binding = 1, std430) readonly buffer G4 { vec4 g4[]; };
layout(binding = 2, std430) buffer M { float m[]; };
layout(binding = 2, std430) buffer M4 { vec4 m4[]; };
layout(binding = 3, std430) readonly buffer Clip { float clip; };
layout(binding = 4, std430) readonly buffer Lr { float lr; };
#include "index.glsl"
#include "magnitude.glsl"

void update(inout vec4 p, vec4 gradient, inout vec4 m) {
  m = clamp(MOMENTUM * m + (gradient * clip + WEIGHT_DECAY * p), -LARGEST, LARGEST);
  p -= lr * m;
}

void main() {
  const uint i = item();
  if (magnitude(clip) > INFINITE || i >= (COUNT % 4 == 0 ? COUNT / 4 : COUNT)) {
    return;
  }
  if (COUNT % 4 == 0) {
    update(p4[i], g4[i], m4[i]);
  } else {
    vec4 new_p = vec4(p[i]), new_m = vec4(m[i]);
    update(new_p, vec4(g[i]), new_m);
    p[i] = new_p.x;
    m[i] = new_m.x;
  }
}
