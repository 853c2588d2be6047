#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// abs_sums: sums of |x| over PARTS runs of neighbours, one workgroup each; a run has
// ceil(ITEMS / PARTS) elements, or quadruples of them where COUNT is a multiple of 4.
//
// Reference: the first stage of op ternarize.
// Bindings:
//   0 read  x f32[COUNT]
//   1 write s f32[PARTS]
layout(constant_id = 0) const uint COUNT = 1;
layout(constant_id = 1) const uint PARTS = 1;
layout(constant_id = 2) const uint WORKGROUP = 256;
layout(local_size_x_id = 2) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 0, std430) readonly buffer X4 { vec4 x4[]; };
layout(binding = 1, std430) writeonly buffer S { float s[]; };
#include "flat.glsl"
#include "index.glsl"
#include "reduce.glsl"
DEFINE_AT(x)

const uint RUN = (ITEMS + PARTS - 1) / PARTS;

void main() {
  const uint part = group();
  if (part >= PARTS) {
    return;
  }
  const uint end = min((part + 1) * RUN, ITEMS);
  vec4 sums = vec4(0);
  for (uint i = part * RUN + gl_LocalInvocationIndex; i < end; i += WORKGROUP) {
    sums += abs(x_at(i));
  }
  const float sum = workgroup_sum(COUNT % 4 == 0 ? sums.x + sums.y + (sums.z + sums.w) : sums.x);
  if (gl_LocalInvocationIndex == 0) {
    s[part] = sum;
  }
}
