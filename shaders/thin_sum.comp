#version 460
#extension GL_GOOGLE_include_directive : require
// thin_sum: y = the sum of the rows of x, always in the same order, for each of some pairs of x and y.
//
// Reference: the second stage of thin_contract.
// Bindings:
#pragma each
//   n read  x@ f32[PARTS,SIZE@]
//   n write y@ f32[SIZE@]
#pragma end
layout(constant_id = 0) const uint PARTS = 1;
layout(constant_id = 1) const uint WORKGROUP = 128;
#pragma each
layout(constant_id = n) const uint SIZE@ = 1;
#pragma end
layout(local_size_x_id = 1) in;
#include "index.glsl"
#include "matrix.glsl"

#pragma each
MATRIX_F32(x@, AT_x@, PARTS, SIZE@)
RESULT_F32(y@, AT_y@, SIZE@, 0, SIZE@)

void add_up@(uint first) {
  vec4 sum = vec4(0);
  for (uint part = 0; part < PARTS; part++) {
    sum += load_x@(part, first);
  }
  store_y@(0, first, sum);
}
#pragma end

void main() {
  uint quad = item();
#pragma each
  if (quad < (SIZE@ + 3) / 4) {
    add_up@(4 * quad);
    return;
  }
  quad -= (SIZE@ + 3) / 4;
#pragma end
}
