#version 460
#extension GL_GOOGLE_include_directive : require
// clip_factor: factor = min(1, MAX_NORM / (norm + 1e-6)), 1 if MAX_NORM is 0, NaN if the norm is.
//
// Reference: op clip_factor.
// Bindings:
//   0 read  norm   f32[]
//   1 write factor f32[]
layout(constant_id = 0) const float MAX_NORM = 1.0;
layout(local_size_x = 1) in;
layout(binding = 0, std430) readonly buffer Norm { float norm; };
layout(binding = 1, std430) writeonly buffer Factor { float factor; };
#include "magnitude.glsl"

void main() {
  // An eighth of both, as GLSL may divide by more than 2^126 as if by infinity.
  const float limit = MAX_NORM > 0 ? min(MAX_NORM / 8 / ((norm + 1e-6) / 8), 1) : 1;
  factor = uintBitsToFloat(magnitude(norm) > INFINITE ? NOT_A_NUMBER : floatBitsToUint(limit));
}
