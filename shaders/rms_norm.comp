#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// rms_norm: y = weight x / sqrt(mean(x^2) + EPS), one workgroup a row.
//
// Reference: op rms_norm.
// Bindings:
//   0 read  x      f32[ROWS,COLUMNS]
//   1 read  weight f32[COLUMNS]
//   2 write y      f32[ROWS,COLUMNS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const float EPS = 1e-5;
layout(constant_id = 3) const uint WORKGROUP = 256;
layout(local_size_x_id = 3) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 0, std430) readonly buffer X4 { vec4 x4[]; };
layout(binding = 1, std430) readonly buffer Weight { float weight[]; };
layout(binding = 1, std430) readonly buffer Weight4 { vec4 weight4[]; };
layout(binding = 2, std430) writeonly buffer Y { float y[]; };
layout(binding = 2, std430) writeonly buffer Y4 { vec4 y4[]; };
#include "index.glsl"
#include "reduce.glsl"
#include "rows.glsl"
DEFINE_AT(x)
DEFINE_AT(weight)
DEFINE_SET(y)

void main() {
  const uint row = group();
  if (row >= ROWS) {
    return;
  }
  precise float squares = 0;
  for (uint i = gl_LocalInvocationIndex; i < COLUMNS4; i += WORKGROUP) {
    const vec4 value = x_at(row, i);
    squares += dot(value, value);
  }
  precise const float r = inversesqrt(workgroup_sum(squares) / COLUMNS + EPS);
  for (uint i = gl_LocalInvocationIndex; i < COLUMNS4; i += WORKGROUP) {
    y_set(row, i, x_at(row, i) * r * weight_at(0, i));
  }
}
