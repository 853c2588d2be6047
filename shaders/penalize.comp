#version 460
#extension GL_GOOGLE_include_directive : require
// penalize: logits of tokens that were seen, made smaller.
//
// Reference: op penalize.
// Bindings:
//   0 read  logits  f32[ROWS,VOCABULARY]
//   1 read  seen    f32[VOCABULARY]
//   2 read  penalty f32[]
//   3 read  inverse f32[]
//   4 write y       f32[ROWS,VOCABULARY]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint VOCABULARY = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Logits { float logits[]; };
layout(binding = 1, std430) readonly buffer Seen { float seen[]; };
layout(binding = 2, std430) readonly buffer Penalty { float penalty; };
layout(binding = 3, std430) readonly buffer Inverse { float inverse; };
layout(binding = 4, std430) writeonly buffer Y { float y[]; };
#include "index.glsl"

void main() {
  const uint i = item();
  if (i < ROWS * VOCABULARY) {
    const float x = logits[i];
    const float factor = x > 0 ? inverse : penalty;
    y[i] = seen[i % VOCABULARY] != 0 ? factor * x : x;
  }
}
