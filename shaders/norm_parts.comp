#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// norm_parts: scale and sum of (x / scale)^2 over runs of RUN neighbours of some tensors, one workgroup
// each; parts left over have the sum 0.
//
// The scale is the power of two below the run's largest magnitude, held within 2^-120 .. 2^120, so
// that squares neither overflow nor vanish. The sum is NaN if an element is not finite.
//
// Reference: the first stage of op global_norm; the idea is that of LAPACK's nrm2.
// Bindings:
//   0 write parts f32[PARTS,2]
#pragma each
//   n read  x@    f32[COUNT@]
#pragma end
layout(constant_id = 0) const uint RUN = 1;
layout(constant_id = 1) const uint PARTS = 1;
layout(constant_id = 2) const uint WORKGROUP = 256;
#pragma each
layout(constant_id = n) const uint COUNT@ = 1;
#pragma end
layout(local_size_x_id = 2) in;
layout(binding = 0, std430) writeonly buffer Parts { vec2 parts[]; };
#include "index.glsl"
#include "magnitude.glsl"
#include "reduce.glsl"

// Exponent of the smallest scale, 127 for 2^0.
const uint SMALLEST = 127 - 120;

void store(float sum, uint exponent, uint top) {
  if (gl_LocalInvocationIndex == 0) {
    const uint bits = top < INFINITE ? floatBitsToUint(sum) : NOT_A_NUMBER;
    parts[group()] = vec2(uintBitsToFloat(exponent << 23), uintBitsToFloat(bits));
  }
}

#pragma each
layout(binding = AT_x@, std430) readonly buffer X@ { float x@[]; };
const uint RUNS@ = (COUNT@ + RUN - 1) / RUN;

void add_run@(uint run) {
  const uint begin = run * RUN + gl_LocalInvocationIndex, end = min((run + 1) * RUN, COUNT@);
  uint top = 0;
  for (uint i = begin; i < end; i += WORKGROUP) {
    top = max(top, magnitude(x@[i]));
  }
  top = workgroup_max(top);
  const uint exponent = clamp(top >> 23, SMALLEST, 2 * 127 - SMALLEST);
  const float inverse = uintBitsToFloat((2 * 127 - exponent) << 23);
  float sum = 0;
  for (uint i = begin; i < end; i += WORKGROUP) {
    sum += (x@[i] * inverse) * (x@[i] * inverse);
  }
  store(workgroup_sum(sum), exponent, top);
}
#pragma end

void main() {
  uint run = group();
#pragma each
  if (run < RUNS@) {
    add_run@(run);
    return;
  }
  run -= RUNS@;
#pragma end
  if (run == 0) {
    for (uint i = group() + gl_LocalInvocationIndex; i < PARTS; i += WORKGROUP) {
      parts[i] = vec2(uintBitsToFloat(SMALLEST << 23), 0);
    }
  }
}
