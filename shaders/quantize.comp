#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// quantize: int8 codes and a scale a row, s = 127 / max(absmax, 1e-5) and
// code = clamp(roundEven(x s), -128, 127), one workgroup a row. A row with NaN has NaN as scale.
//
// Reference: op quantize, bit for bit.
// Bindings:
//   0 read  x f32[ROWS,COLUMNS]
//   1 write q q8[ROWS,COLUMNS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const uint WORKGROUP = 256;
layout(local_size_x_id = 2) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 0, std430) readonly buffer X4 { vec4 x4[]; };
layout(binding = 1, std430) writeonly buffer Q { uint q[]; };
#include "index.glsl"
#include "magnitude.glsl"
#include "reduce.glsl"
#include "rows.glsl"
DEFINE_AT(x)

// 127 / x as IEEE 754 rounds it, by long division of the significands; GLSL's own division may be
// 2.5 ulp off, and one ulp changes codes. x is at least 1e-5, so that all numbers are normal.
float scale_for(float x) {
  if (magnitude(x) >= INFINITE) {
    return 127 / x;
  }
  const uint divisor = floatBitsToUint(x) & 0x7fffff | 0x800000;
  int exponent = 127 + 6 - int(floatBitsToUint(x) >> 23) + 127;
  uint rest = 127u << 17, quotient = 0;
  if (rest < divisor) {
    rest *= 2;
    exponent--;
  }
  for (uint i = 0; i < 24; i++) {
    const uint bit = uint(rest >= divisor);
    rest = (rest - bit * divisor) * 2;
    quotient = quotient * 2 + bit;
  }
  const bool up = rest > divisor || rest == divisor && (quotient & 1) == 1;
  return uintBitsToFloat((uint(exponent) << 23) + (quotient & 0x7fffff) + uint(up));
}

void main() {
  const uint row = group();
  if (row >= ROWS) {
    return;
  }
  uint top = floatBitsToUint(1e-5);
  for (uint i = gl_LocalInvocationIndex; i < COLUMNS4; i += WORKGROUP) {
    const vec4 value = x_at(row, i);
    top = max(top, max(magnitude(value.x), magnitude(value.y)));
    top = max(top, max(magnitude(value.z), magnitude(value.w)));
  }
  const float scale = scale_for(uintBitsToFloat(workgroup_max(top)));
  for (uint i = gl_LocalInvocationIndex; i < COLUMNS4; i += WORKGROUP) {
    const uvec4 code = uvec4(ivec4(clamp(roundEven(x_at(row, i) * scale), -128, 127))) & 0xff;
    q[row * COLUMNS4 + i] = code.x | code.y << 8 | code.z << 16 | code.w << 24;
  }
  if (gl_LocalInvocationIndex == 0) {
    q[ROWS * COLUMNS4 + row] = floatBitsToUint(scale);
  }
}
