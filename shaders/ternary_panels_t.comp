#version 460
#extension GL_GOOGLE_include_directive : require
// ternary_panels_t: the codes of some ternary w below each other, 128 columns of all rows after the
// other: a row has 32 bytes of them, the codes of one group.
//
// Reference: the right factor of ternary_matmul_t_cm. INNER is the sum of all INNER@, COLUMNS a multiple
// of 128.
// Bindings:
//   0 write y u32[GROUPS,INNER,8]
#pragma each
//   n read  w@ t2[INNER@,COLUMNS]
#pragma end
layout(constant_id = 0) const uint INNER = 1;
layout(constant_id = 1) const uint COLUMNS = 128;
layout(constant_id = 2) const uint GROUPS = 1;  // of a row, 128 weights each
#pragma each
layout(constant_id = n) const uint INNER@ = 1;
#pragma end
layout(local_size_x = 256) in;
layout(binding = 0, std430) writeonly buffer Y { uvec4 y[]; };
#pragma each
layout(binding = AT_w@, std430) readonly buffer W@ { uvec4 w@[]; };
#pragma end
#include "index.glsl"

uvec4 codes_of(uint row, uint half_group) {
#pragma each
  if (row < INNER@) {
    return w@[row * GROUPS * 2 + half_group];
  }
  row -= INNER@;
#pragma end
  return uvec4(0);
}

void main() {
  const uint place = group() * gl_WorkGroupSize.x + gl_LocalInvocationIndex;
  const uint of_group = place / (2 * INNER);
  if (of_group < GROUPS) {
    y[place] = codes_of(place / 2 % INNER, 2 * of_group + place % 2);
  }
}
