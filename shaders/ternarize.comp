#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// ternarize: codes = clamp(roundEven(w s), -1, 1) with s = 1 / scale, and the scale, which is
// max(mean |w|, 1e-5) with the mean from the sums of abs_sums. An invocation packs a word.
//
// Reference: op ternarize. PARTS is at most WORKGROUP.
// Bindings:
//   0 read  w    f32[ROWS,COLUMNS]
//   1 read  sums f32[PARTS]
//   2 write t    t2[ROWS,COLUMNS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const uint PARTS = 1;
layout(constant_id = 3) const uint WORKGROUP = 256;
layout(local_size_x_id = 3) in;
layout(binding = 0, std430) readonly buffer W { float w[]; };
layout(binding = 0, std430) readonly buffer W4 { vec4 w4[]; };
layout(binding = 1, std430) readonly buffer Sums { float sums[]; };
layout(binding = 2, std430) writeonly buffer T { uint t[]; };
#include "index.glsl"
#include "reduce.glsl"

const uint COUNT = ROWS * COLUMNS;
const uint WORDS = (COUNT + 127) / 128 * 8;

// a / b and 1 / a to the last bit but for rare ties: GLSL's own division may be 2.5 ulp off.
float quotient(float a, float b) {
  precise const float q = a / b;
  return fma(fma(-q, b, a), 1 / b, q);
}

// At least 1e-5; whole numbers in the same order, so that a NaN stays.
float scale_of(float sum) {
  const uint mean = floatBitsToUint(quotient(sum, float(COUNT)));
  return uintBitsToFloat(max(mean, floatBitsToUint(1e-5)));
}

// Zeros past the end.
vec4 w_at(uint i) {
  vec4 quad = vec4(0);
  if (COUNT % 4 == 0) {
    return i < COUNT ? w4[i / 4] : quad;
  }
  for (uint j = 0; j < 4 && i + j < COUNT; j++) {
    quad[j] = w[i + j];
  }
  return quad;
}

// Codes 0 to 2 for -1 to 1, in the low bits of four bytes.
uint codes_of(vec4 scaled) {
  const uvec4 codes = uvec4(ivec4(clamp(roundEven(scaled), -1, 1)) + 1);
  return codes.x | codes.y << 8 | codes.z << 16 | codes.w << 24;
}

void main() {
  const uint self = gl_LocalInvocationIndex;
  const float scale = scale_of(workgroup_sum(self < PARTS ? sums[self] : 0));
  const float inverse = quotient(1, scale);
  const uint word = item();
  if (word < WORDS) {
    // Where ternary.glsl looks for them: word w of a group has the weights 32 k + 4 w and on.
    uint packed = 0;
    for (uint k = 0; k < 4; k++) {
      const uint first = word / 8 * 128 + 32 * k + word % 8 * 4;
      packed |= codes_of(w_at(first) * inverse) << (6 - 2 * k);
    }
    t[word] = packed;
  }
  if (word == 0) {
    t[WORDS] = floatBitsToUint(scale);
  }
}
