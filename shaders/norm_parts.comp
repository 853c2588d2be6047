#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// norm_parts: scale and sum of (x / scale)^2 over PARTS runs of neighbours, one workgroup each; a
// run has ceil(COUNT / PARTS) elements, the last ones fewer or none.
//
// The scale is the power of two below the run's largest magnitude, held within 2^-120 .. 2^120, so
// that squares neither overflow nor vanish. The sum is NaN if an element is not finite.
//
// Reference: the first stage of op global_norm; the idea is that of LAPACK's nrm2.
// Bindings:
//   0 read  x     f32[COUNT]
//   1 write parts f32[PARTS,2]
layout(constant_id = 0) const uint COUNT = 1;
layout(constant_id = 1) const uint PARTS = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) writeonly buffer Parts { vec2 parts[]; };
#include "index.glsl"
#include "magnitude.glsl"
#include "reduce.glsl"

const uint RUN = (COUNT + PARTS - 1) / PARTS;

void main() {
  const uint part = group();
  if (part >= PARTS) {
    return;
  }
  const uint begin = part * RUN + gl_LocalInvocationIndex, end = min((part + 1) * RUN, COUNT);
  uint top = 0;
  for (uint i = begin; i < end; i += gl_WorkGroupSize.x) {
    top = max(top, magnitude(x[i]));
  }
  top = workgroup_max(top);
  const uint exponent = clamp(top >> 23, 127 - 120, 127 + 120);
  const float inverse = uintBitsToFloat((2 * 127 - exponent) << 23);
  float sum = 0;
  for (uint i = begin; i < end; i += gl_WorkGroupSize.x) {
    sum += (x[i] * inverse) * (x[i] * inverse);
  }
  sum = workgroup_sum(sum);
  if (gl_LocalInvocationIndex == 0) {
    const uint bits = top < INFINITE ? floatBitsToUint(sum) : NOT_A_NUMBER;
    parts[part] = vec2(uintBitsToFloat(exponent << 23), uintBitsToFloat(bits));
  }
}
