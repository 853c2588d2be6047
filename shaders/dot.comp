#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// dot: sums of a b over PARTS runs of neighbours, one workgroup each; a run has
// ceil(COUNT / PARTS) elements, the last ones fewer or none.
//
// Reference: op dot, of which this is all for one part.
// Bindings:
//   0 read  a f32[COUNT]
//   1 read  b f32[COUNT]
//   2 write s f32[PARTS]
layout(constant_id = 0) const uint COUNT = 1;
layout(constant_id = 1) const uint PARTS = 1;
layout(constant_id = 2) const uint WORKGROUP = 256;
layout(local_size_x_id = 2) in;
layout(binding = 0, std430) readonly buffer A { float a[]; };
layout(binding = 1, std430) readonly buffer B { float b[]; };
layout(binding = 2, std430) writeonly buffer S { float s[]; };
#include "index.glsl"
#include "reduce.glsl"

const uint RUN = (COUNT + PARTS - 1) / PARTS;

void main() {
  const uint part = group();
  if (part >= PARTS) {
    return;
  }
  const uint end = min((part + 1) * RUN, COUNT);
  float sum = 0;
  for (uint i = part * RUN + gl_LocalInvocationIndex; i < end; i += WORKGROUP) {
    sum += a[i] * b[i];
  }
  sum = workgroup_sum(sum);
  if (gl_LocalInvocationIndex == 0) {
    s[part] = sum;
  }
}
