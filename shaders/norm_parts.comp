#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// norm_parts: scale and sum of (x / scale)^2 over runs of RUN neighbours, one workgroup each; parts
// left over have the sum 0.
//
// The scale is the power of two below the run's largest magnitude, held within 2^-120 .. 2^120, so
// that squares neither overflow nor vanish. The sum is NaN if an element is not finite.
//
// Reference: the first stage of op global_norm; the idea is that of LAPACK's nrm2.
// Bindings:
//   0 read  x     f32[COUNT]
//   1 write parts f32[PARTS,2]
layout(constant_id = 0) const uint COUNT = 1;
layout(constant_id = 1) const uint RUN = 1;
layout(constant_id = 2) const uint PARTS = 1;
layout(constant_id = 3) const uint WORKGROUP = 256;
layout(local_size_x_id = 3) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) writeonly buffer Parts { vec2 parts[]; };
#include "index.glsl"
#include "magnitude.glsl"
#include "reduce.glsl"

const uint RUNS = (COUNT + RUN - 1) / RUN;

// Exponent of the smallest scale, 127 for 2^0.
const uint SMALLEST = 127 - 120;

void main() {
  const uint part = group();
  if (part >= RUNS) {
    return;
  }
  const uint begin = part * RUN + gl_LocalInvocationIndex, end = min((part + 1) * RUN, COUNT);
  uint top = 0;
  for (uint i = begin; i < end; i += WORKGROUP) {
    top = max(top, magnitude(x[i]));
  }
  top = workgroup_max(top);
  const uint exponent = clamp(top >> 23, SMALLEST, 2 * 127 - SMALLEST);
  const float inverse = uintBitsToFloat((2 * 127 - exponent) << 23);
  float sum = 0;
  for (uint i = begin; i < end; i += WORKGROUP) {
    sum += (x[i] * inverse) * (x[i] * inverse);
  }
  sum = workgroup_sum(sum);
  if (gl_LocalInvocationIndex == 0) {
    const uint bits = top < INFINITE ? floatBitsToUint(sum) : NOT_A_NUMBER;
    parts[part] = vec2(uintBitsToFloat(exponent << 23), uintBitsToFloat(bits));
  }
  if (part == 0) {
    for (uint i = RUNS + gl_LocalInvocationIndex; i < PARTS; i += WORKGROUP) {
      parts[i] = vec2(uintBitsToFloat(SMALLEST << 23), 0);
    }
  }
}
