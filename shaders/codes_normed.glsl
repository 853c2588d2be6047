// The same as codes.glsl of a plain x, whose norm every workgroup takes and quantizes for itself, as
// ops rms_norm and quantize do; the codes are kept in shared memory. The includer has WORKGROUP and
// EPS besides, and GL_KHR_shader_subgroup_arithmetic.

#extension GL_EXT_control_flow_attributes : require
#include "absmax.glsl"
#include "reduce.glsl"

const uint STRIPS = INNER / 64;
const uint WORDS = INNER / 4;
const uint CHUNKS = (WORDS + WORKGROUP - 1) / WORKGROUP;

layout(binding = 0, std430) readonly buffer X4 { vec4 x4[]; };
layout(binding = 1, std430) readonly buffer Norm4 { vec4 norm4[]; };

shared ivec4 x_quads[ROWS * INNER / 16];  // those of a k side by side, strip by strip
shared float x_scales[ROWS];

void put_word(uint row, uint word, uint codes) {
  const uint quad = word / 4 % 8, strip = word / 32 * 2 + quad % 2, k = quad / 2;
  x_quads[(row * 4 + k) * STRIPS + strip][word % 4] = int(codes);
}

void prepare_x() {
  for (uint row = 0; row < ROWS; row++) {
    vec4 kept[CHUNKS], weights[CHUNKS];
    precise float squares = 0;
    [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
      const uint i = c * WORKGROUP + gl_LocalInvocationIndex;
      if (i < WORDS) {
        kept[c] = x4[row * WORDS + i];
        weights[c] = norm4[i];
      }
    }
    [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
      if (c * WORKGROUP + gl_LocalInvocationIndex < WORDS) {
        squares += dot(kept[c], kept[c]);
      }
    }
    precise const float mean = workgroup_sum(squares) / INNER;
    precise const float r = inversesqrt(mean + EPS);
    uint top = floatBitsToUint(1e-5);
    [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
      if (c * WORKGROUP + gl_LocalInvocationIndex < WORDS) {
        precise const vec4 normed = kept[c] * r * weights[c];
        kept[c] = normed;
        top = max(top, largest(normed));
      }
    }
    const float scale = scale_for(uintBitsToFloat(workgroup_max(top)));
    [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
      const uint i = c * WORKGROUP + gl_LocalInvocationIndex;
      if (i < WORDS) {
        put_word(row, i, pack_codes(kept[c] * scale));
      }
    }
    if (gl_LocalInvocationIndex == 0) {
      x_scales[row] = scale;
    }
  }
  barrier();
}

ivec4 quad_of_x(uint row, uint strip, uint k) {
  return x_quads[(row * 4 + k) * STRIPS + strip];
}

float scale_of_x(uint row) {
  return x_scales[row];
}
