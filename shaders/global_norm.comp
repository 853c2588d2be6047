#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// global_norm: square root of the sum of scale^2 sum over the PARTS of norm_parts, held below the
// largest float, one workgroup. NaN if a sum is.
//
// Reference: the second stage of op global_norm.
// Bindings:
//   0 read  parts f32[PARTS,2]
//   1 write norm  f32[]
layout(constant_id = 0) const uint PARTS = 1;
layout(constant_id = 1) const uint WORKGROUP = 256;
layout(local_size_x_id = 1) in;
layout(binding = 0, std430) readonly buffer Parts { vec2 parts[]; };
layout(binding = 1, std430) writeonly buffer Norm { float norm; };
#include "magnitude.glsl"
#include "reduce.glsl"

void main() {
  uint scale = 0, top = 0;
  for (uint i = gl_LocalInvocationIndex; i < PARTS; i += WORKGROUP) {
    scale = max(scale, floatBitsToUint(parts[i].x));
    top = max(top, magnitude(parts[i].y));
  }
  scale = workgroup_max(scale);
  top = workgroup_max(top);
  float total = 0;
  for (uint i = gl_LocalInvocationIndex; i < PARTS; i += WORKGROUP) {
    // Scales are powers of two: the ratio's square is one too, or too small to count.
    const uint below = 2 * ((scale - floatBitsToUint(parts[i].x)) >> 23);
    total += below < 127 ? parts[i].y * uintBitsToFloat((127 - below) << 23) : 0;
  }
  total = workgroup_sum(total);
  if (gl_LocalInvocationIndex == 0) {
    const float root = min(sqrt(total) * uintBitsToFloat(scale), LARGEST);
    norm = uintBitsToFloat(top < INFINITE ? floatBitsToUint(root) : NOT_A_NUMBER);
  }
}
