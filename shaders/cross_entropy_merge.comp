#version 460
#extension GL_GOOGLE_include_directive : require
// cross_entropy_merge: lse and nll = lse - z[label] out of what cross_entropy found tile by tile,
// zeros where the label is negative. SLICES invocations share the tiles of a row.
//
// Reference: op linear_cross_entropy.
// Bindings:
//   0 read  labels  i32[ROWS]
//   1 read  partial f32[TILES,3,PITCH]
//   2 write nll     f32[ROWS]
//   3 write lse     f32[ROWS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint TILES = 1;
layout(constant_id = 2) const uint PITCH = 1;
const uint ABREAST = 16;
const uint SLICES = 16;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Labels { int labels[]; };
layout(binding = 1, std430) readonly buffer Partial { float partial[]; };
layout(binding = 2, std430) writeonly buffer Nll { float nll[]; };
layout(binding = 3, std430) writeonly buffer Lse { float lse[]; };
#include "index.glsl"
#include "softmax_merge.glsl"

shared vec3 found[ABREAST * SLICES];  // largest, sum of exponentials, picked

void main() {
  const uint thread = gl_LocalInvocationIndex;
  const uint row = group() * ABREAST + thread % ABREAST;
  bool labelled = false;
  if (row < ROWS) {
    labelled = labels[row] >= 0;
  }
  vec3 all = NOTHING;
  if (labelled) {
    for (uint tile = thread / ABREAST; tile < TILES; tile += SLICES) {
      const uint i = tile * 3 * PITCH + row;
      all = merge(all, vec3(partial[i], partial[i + PITCH], partial[i + 2 * PITCH]));
    }
  }
  found[thread] = all;
  barrier();
  for (uint reach = SLICES / 2; reach > 0; reach /= 2) {
    if (thread < reach * ABREAST) {
      found[thread] = merge(found[thread], found[thread + reach * ABREAST]);
    }
    barrier();
  }
  if (thread < ABREAST && row < ROWS) {
    const vec3 whole = found[thread];
    const float sum = whole.x + log(whole.y);
    lse[row] = labelled ? sum : 0.0;
    nll[row] = labelled ? sum - whole.z : 0.0;
  }
}
