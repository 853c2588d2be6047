#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// inverse_rms: r = 1 / sqrt(mean(x^2) + EPS), one workgroup a row.
//
// Reference: a step of op rms_norm_weight_grad.
// Bindings:
//   0 read  x f32[ROWS,COLUMNS]
//   1 write r f32[ROWS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const float EPS = 1e-5;
layout(constant_id = 3) const uint WORKGROUP = 256;
layout(local_size_x_id = 3) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 0, std430) readonly buffer X4 { vec4 x4[]; };
layout(binding = 1, std430) writeonly buffer R { float r[]; };
#include "index.glsl"
#include "reduce.glsl"
#include "rows.glsl"
DEFINE_AT(x)

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
  squares = workgroup_sum(squares);
  if (gl_LocalInvocationIndex == 0) {
    r[row] = inversesqrt(squares / COLUMNS + EPS);
  }
}
