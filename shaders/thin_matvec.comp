#version 460
#extension GL_GOOGLE_include_directive : require
// thin_matvec: y = FACTOR a b^T of a few rows and few columns, for each of some pairs of a and b.
//
// Reference: op matmul with transpose_b, then scale.
// Bindings:
#pragma each
//   n read  a@ f32[ROWS,INNER@]
//   n read  b@ f32[COLUMNS,INNER@]
//   n write y@ f32[ROWS,COLUMNS]
#pragma end
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const float FACTOR = 1.0;
layout(constant_id = 3) const uint LANES = 128;
layout(constant_id = 4) const uint WORKGROUP = 128;
#pragma each
layout(constant_id = n) const uint INNER@ = 1;
#pragma end
layout(local_size_x_id = 4) in;
#include "matrix.glsl"
#define SUM float
#include "lanes.glsl"

const uint BATCH = ROWS > 2 ? 4 : 8;  // quads of b in flight

float sums[ROWS];

#pragma each
MATRIX_F32(a@, AT_a@, ROWS, INNER@)
MATRIX_F32(b@, AT_b@, COLUMNS, INNER@)
layout(binding = AT_y@, std430) writeonly buffer Y@ { float y@[]; };

void add_quads@(uint column) {
  for (uint first = 4 * lane(); first < INNER@; first += 4 * BATCH * LANES) {
    vec4 b[BATCH];
    [[unroll]] for (uint i = 0; i < BATCH; i++) {
      b[i] = load_b@(column, first + 4 * i * LANES);
    }
    [[unroll]] for (uint i = 0; i < BATCH; i++) {
      [[unroll]] for (uint row = 0; row < ROWS; row++) {
        sums[row] += dot(load_a@(row, first + 4 * i * LANES), b[i]);
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
  const uint member = shared_item() / COLUMNS;
  const uint column = shared_item() % COLUMNS;
  [[unroll]] for (uint row = 0; row < ROWS; row++) {
    sums[row] = 0;
  }
#pragma each
  if (member == @) {
    add_quads@(column);
  }
#pragma end
  [[unroll]] for (uint row = 0; row < ROWS; row++) {
    partial[row * WORKGROUP + gl_LocalInvocationIndex] = sums[row];
  }
  add_lanes();
  if (lane() == 0 && member < MEMBERS) {
    for (uint row = 0; row < ROWS; row++) {
      store(member, row, column, FACTOR * partial[row * WORKGROUP + gl_LocalInvocationIndex]);
    }
  }
}
