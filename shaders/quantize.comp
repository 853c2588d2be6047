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
#include "absmax.glsl"
#include "index.glsl"
#include "reduce.glsl"
#include "rows.glsl"
DEFINE_AT(x)

void main() {
  const uint row = group();
  if (row >= ROWS) {
    return;
  }
  uint top = floatBitsToUint(1e-5);
  for (uint i = gl_LocalInvocationIndex; i < COLUMNS4; i += WORKGROUP) {
    top = max(top, largest(x_at(row, i)));
  }
  const float scale = scale_for(uintBitsToFloat(workgroup_max(top)));
  for (uint i = gl_LocalInvocationIndex; i < COLUMNS4; i += WORKGROUP) {
    q[row * COLUMNS4 + i] = pack_codes(x_at(row, i) * scale);
  }
  if (gl_LocalInvocationIndex == 0) {
    q[ROWS * COLUMNS4 + row] = floatBitsToUint(scale);
  }
}
