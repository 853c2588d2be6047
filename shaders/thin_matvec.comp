#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// thin_matvec: y = FACTOR a b^T of a few rows and few columns, for each of some pairs of a and b, a
// workgroup for each column. With NORMED, a is for all of them the norm of x, as op rms_norm takes it.
//
// Reference: op matmul with transpose_b, then scale.
// Bindings:
#ifdef NORMED
//   n read  x    f32[ROWS,INNER0]
//   n read  norm f32[INNER0]
#endif
#pragma each
#ifdef NORMED
#else
//   n read  a@ f32[ROWS,INNER@]
#endif
//   n read  b@ f32[COLUMNS,INNER@]
//   n write y@ f32[ROWS,COLUMNS]
#pragma end
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const float FACTOR = 1.0;
layout(constant_id = 3) const uint WORKGROUP = 128;
#pragma each
layout(constant_id = n) const uint INNER@ = 1;
#pragma end
#ifdef NORMED
layout(constant_id = n) const float EPS = 1e-5;
#endif
layout(local_size_x_id = 3) in;
#extension GL_EXT_control_flow_attributes : require
#include "index.glsl"
#include "matrix.glsl"
#include "reduce.glsl"

const uint BATCH = ROWS > 2 ? 4 : 8;  // quads of b in flight

vec2 sums[ROWS];  // of products, and of the squares of x

#ifdef NORMED
MATRIX_F32(x, AT_x, ROWS, INNER0)
MATRIX_F32(norm, AT_norm, 1, INNER0)

vec2 products(uint row, uint column, vec4 b) {
  const vec4 a = load_x(row, column);
  return vec2(dot(a, b), dot(a, a));
}
#endif

#pragma each
#ifdef NORMED
#else
MATRIX_F32(a@, AT_a@, ROWS, INNER@)
#endif
MATRIX_F32(b@, AT_b@, COLUMNS, INNER@)
layout(binding = AT_y@, std430) writeonly buffer Y@ { float y@[]; };

void add_quads@(uint column) {
  const uint each = 4 * WORKGROUP;
  for (uint first = 4 * gl_LocalInvocationIndex; first < INNER@; first += BATCH * each) {
    vec4 b[BATCH];
    [[unroll]] for (uint i = 0; i < BATCH; i++) {
      b[i] = load_b@(column, first + i * each);
#ifdef NORMED
      b[i] *= load_norm(0, first + i * each);
#endif
    }
    [[unroll]] for (uint i = 0; i < BATCH; i++) {
      [[unroll]] for (uint row = 0; row < ROWS; row++) {
#ifdef NORMED
        sums[row] += products(row, first + i * each, b[i]);
#else
        sums[row].x += dot(load_a@(row, first + i * each), b[i]);
#endif
      }
    }
  }
}
#pragma end

void store(uint member, uint row, uint column, float y) {
#pragma each
  if (member == @) {
    y@[row * COLUMNS + column] = y;
  }
#pragma end
}

void main() {
  const uint member = group() / COLUMNS;
  const uint column = group() % COLUMNS;
  [[unroll]] for (uint row = 0; row < ROWS; row++) {
    sums[row] = vec2(0);
  }
#pragma each
  if (member == @) {
    add_quads@(column);
  }
#pragma end
  [[unroll]] for (uint row = 0; row < ROWS; row++) {
    const vec2 total = workgroup_sum(sums[row]);
    float y = FACTOR * total.x;
#ifdef NORMED
    y *= inversesqrt(total.y / INNER0 + EPS);
#endif
    if (gl_LocalInvocationIndex == 0 && member < MEMBERS) {
      store(member, row, column, y);
    }
  }
}
