#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// row_power: y = the power of two below the largest magnitude of each row, or equal to it, at most
// 2^126 and at least 2^-126; one workgroup a row.
//
// Reference: the scales of ternary_matmul_t_cm.
// Bindings:
//   0 read  x f32[ROWS,COLUMNS]
//   1 write y f32[ROWS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 0, std430) readonly buffer X4 { vec4 x4[]; };
layout(binding = 1, std430) writeonly buffer Y { float y[]; };
#include "index.glsl"
#include "power.glsl"
#include "reduce.glsl"
#include "rows.glsl"
DEFINE_AT(x)

void main() {
  const uint row = group();
  if (row < ROWS) {
    float largest = 0;
    for (uint i = gl_LocalInvocationIndex; i < COLUMNS4; i += gl_WorkGroupSize.x) {
      const vec4 quad = abs(x_at(row, i));
      largest = max(max(max(quad.x, quad.y), max(quad.z, quad.w)), largest);
    }
    const uint top = workgroup_max(floatBitsToUint(largest));
    if (gl_LocalInvocationIndex == 0) {
      y[row] = power_below(top);
    }
  }
}
