#version 460
#extension GL_GOOGLE_include_directive : require
// adamw: one step of AdamW on some tensors p with their moments m and v, for gradients g times clip;
// nothing at all where clip is NaN.
//
// ALPHA1 is 1 - BETA1 and LOG_BETA1 its logarithm, which the host knows to more digits; so for 2.
//
// Reference: op adamw.
// Bindings:
//   0 read   clip f32[]
//   1 read   lr   f32[]
//   2 read   step i32[]
#pragma each
//   n update p@   f32[COUNT@]
//   n read   g@   f32[COUNT@]
//   n update m@   f32[COUNT@]
//   n update v@   f32[COUNT@]
#pragma end
layout(constant_id = 0) const float BETA1 = 0.9;
layout(constant_id = 1) const float ALPHA1 = 0.1;
layout(constant_id = 2) const float LOG_BETA1 = -0.1;
layout(constant_id = 3) const float BETA2 = 0.999;
layout(constant_id = 4) const float ALPHA2 = 0.001;
layout(constant_id = 5) const float LOG_BETA2 = -0.001;
layout(constant_id = 6) const float EPS = 1e-8;
layout(constant_id = 7) const float WEIGHT_DECAY = 0.0;
#pragma each
layout(constant_id = n) const uint COUNT@ = 1;
#pragma end
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Clip { float clip; };
layout(binding = 1, std430) readonly buffer Lr { float lr; };
layout(binding = 2, std430) readonly buffer Step { int step; };
#include "index.glsl"
#include "magnitude.glsl"

const float SMALLEST = 1.1754943508e-38;

// 1 - beta^step. Near 1 the power would cancel, so Taylor's series takes over.
float bias(float log_beta) {
  const float y = log_beta * float(max(step, 1));
  if (y < -0.5) {
    return 1 - exp(y);
  }
  float series = 1;
  for (uint k = 8; k > 1; k--) {
    series = 1 + y / k * series;
  }
  return -y * series;
}

void update(inout vec4 p, vec4 gradient, inout vec4 m, inout vec4 v) {
  const vec4 clipped = gradient * clip;
  m = BETA1 * m + ALPHA1 * clipped;
  // In this order: the square alone may overflow.
  precise const vec4 square = (ALPHA2 * clipped) * clipped;
  v = min(BETA2 * v + square, LARGEST);
  // GLSL's square root of 0 or of a denormal number may be NaN.
  const vec4 root = mix(sqrt(v), vec4(0), lessThan(v, vec4(SMALLEST)));
  // One division, by a number that cannot overflow, where the op divides by both in turn.
  const vec4 change = m / (bias(LOG_BETA1) * (root * inversesqrt(bias(LOG_BETA2)) + EPS));
  p = p * (1 - lr * WEIGHT_DECAY) - lr * change;
}

// Workgroups for so many elements, four an invocation where their number is a multiple of 4.
uint groups_of(uint count) {
  return ((count % 4 == 0 ? count / 4 : count) + gl_WorkGroupSize.x - 1) / gl_WorkGroupSize.x;
}

#pragma each
layout(binding = AT_p@, std430) buffer P@ { float p@[]; };
layout(binding = AT_p@, std430) buffer P@Quads { vec4 p@_of4[]; };
layout(binding = AT_g@, std430) readonly buffer G@ { float g@[]; };
layout(binding = AT_g@, std430) readonly buffer G@Quads { vec4 g@_of4[]; };
layout(binding = AT_m@, std430) buffer M@ { float m@[]; };
layout(binding = AT_m@, std430) buffer M@Quads { vec4 m@_of4[]; };
layout(binding = AT_v@, std430) buffer V@ { float v@[]; };
layout(binding = AT_v@, std430) buffer V@Quads { vec4 v@_of4[]; };

void update@(uint i) {
  if (COUNT@ % 4 == 0) {
    if (i < COUNT@ / 4) {
      update(p@_of4[i], g@_of4[i], m@_of4[i], v@_of4[i]);
    }
  } else if (i < COUNT@) {
    vec4 new_p = vec4(p@[i]), new_m = vec4(m@[i]), new_v = vec4(v@[i]);
    update(new_p, vec4(g@[i]), new_m, new_v);
    p@[i] = new_p.x;
    m@[i] = new_m.x;
    v@[i] = new_v.x;
  }
}
#pragma end

void main() {
  if (magnitude(clip) > INFINITE) {
    return;
  }
  uint number = group();
#pragma each
  if (number < groups_of(COUNT@)) {
    update@(number * gl_WorkGroupSize.x + gl_LocalInvocationIndex);
    return;
  }
  number -= groups_of(COUNT@);
#pragma end
}
