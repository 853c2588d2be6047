#version 460
#extension GL_GOOGLE_include_directive : require
// sample_tops: the largest of every CHUNK logits of a row and its id, the lowest among equals, one
// workgroup for each.
//
// Reference: op sample at temperature 0, for a part of the vocabulary.
// Bindings:
//   0 read  logits f32[ROWS,VOCABULARY]
//   1 write tops   f32[ROWS,CHUNKS]
//   2 write ids    u32[ROWS,CHUNKS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint VOCABULARY = 1;
layout(constant_id = 2) const uint CHUNKS = 1;
layout(constant_id = 3) const uint CHUNK = 1;
const uint THREADS = 256;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Logits { float logits[]; };
layout(binding = 1, std430) writeonly buffer Tops { float tops[]; };
layout(binding = 2, std430) writeonly buffer Ids { uint ids[]; };
#include "sample_best.glsl"

void main() {
  const uint chunk = gl_WorkGroupID.x, row = gl_WorkGroupID.y;
  const uint end = min((chunk + 1) * CHUNK, VOCABULARY);
  Best best = Best(0, NOBODY);
  for (uint id = chunk * CHUNK + gl_LocalInvocationIndex; id < end; id += THREADS) {
    best = better(best, Best(logits[row * VOCABULARY + id], id));
  }
  best = workgroup_best(best);
  if (gl_LocalInvocationIndex == 0) {
    tops[row * CHUNKS + chunk] = best.number;
    ids[row * CHUNKS + chunk] = best.id;
  }
}
