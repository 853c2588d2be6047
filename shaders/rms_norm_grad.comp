#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// rms_norm_grad: dx = r (g - x r^2 mean(g x)) with g = weight dy and r = 1 / sqrt(mean(x^2) + EPS),
// one workgroup a row.
//
// Reference: op rms_norm_grad.
// Bindings:
//   0 read  dy     f32[ROWS,COLUMNS]
//   1 read  x      f32[ROWS,COLUMNS]
//   2 read  weight f32[COLUMNS]
//   3 write dx     f32[ROWS,COLUMNS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const float EPS = 1e-5;
layout(constant_id = 3) const uint WORKGROUP = 256;
layout(local_size_x_id = 3) in;
layout(binding = 0, std430) readonly buffer Dy { float dy[]; };
layout(binding = 0, std430) readonly buffer Dy4 { vec4 dy4[]; };
layout(binding = 1, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) readonly buffer X4 { vec4 x4[]; };
layout(binding = 2, std430) readonly buffer Weight { float weight[]; };
layout(binding = 2, std430) readonly buffer Weight4 { vec4 weight4[]; };
layout(binding = 3, std430) writeonly buffer Dx { float dx[]; };
layout(binding = 3, std430) writeonly buffer Dx4 { vec4 dx4[]; };
#include "index.glsl"
#include "reduce.glsl"
#include "rows.glsl"
DEFINE_AT(dy)
DEFINE_AT(x)
DEFINE_AT(weight)
DEFINE_SET(dx)

void main() {
  const uint row = group();
  if (row >= ROWS) {
    return;
  }
  precise vec2 sums = vec2(0);
  for (uint i = gl_LocalInvocationIndex; i < COLUMNS4; i += WORKGROUP) {
    const vec4 value = x_at(row, i);
    sums += vec2(dot(value, value), dot(dy_at(row, i) * weight_at(0, i), value));
  }
  precise const vec2 means = workgroup_sum(sums) / COLUMNS;
  precise const float r = inversesqrt(means.x + EPS), along = r * r * means.y;
  for (uint i = gl_LocalInvocationIndex; i < COLUMNS4; i += WORKGROUP) {
    precise const vec4 value = (dy_at(row, i) * weight_at(0, i) - x_at(row, i) * along) * r;
    dx_set(row, i, value);
  }
}
