#version 460
#extension GL_GOOGLE_include_directive : require
// sum_parts: y = the sum of the rows of x, always in the same order.
//
// Reference: the second stage of matmul, matmul_t and contract_rows.
// Bindings:
//   0 read  x f32[PARTS,SIZE]
//   1 write y f32[SIZE]
layout(constant_id = 0) const uint PARTS = 1;
layout(constant_id = 1) const uint SIZE = 1;
layout(constant_id = 2) const uint WORKGROUP = 128;
layout(local_size_x_id = 2) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) writeonly buffer Y { float y[]; };
#include "index.glsl"

void main() {
  const uint i = item();
  if (i < SIZE) {
    float sum = 0;
    for (uint part = 0; part < PARTS; part++) {
      sum += x[part * SIZE + i];
    }
    y[i] = sum;
  }
}
