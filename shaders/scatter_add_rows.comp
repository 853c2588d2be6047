#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// scatter_add_rows: row r of t is the sum of the rows n of x with ids[n] = FIRST + r, added in
// their order, one workgroup a row of t, which may be a part of a larger one.
//
// Reference: op scatter_add_rows, of which this is all for a table in one part.
// Bindings:
//   0 read  x   f32[COUNT,COLUMNS]
//   1 read  ids i32[COUNT]
//   2 write t   f32[TABLE_ROWS,COLUMNS]
layout(constant_id = 0) const uint TABLE_ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const uint COUNT = 1;
layout(constant_id = 3) const uint FIRST = 0;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) readonly buffer Ids { int ids[]; };
layout(binding = 2, std430) buffer T { float t[]; };
#include "index.glsl"
#include "reduce.glsl"

shared bool hits[256];

void main() {
  const uint row = group(), self = gl_LocalInvocationIndex;
  if (row >= TABLE_ROWS) {
    return;
  }
  // Each invocation has columns of its own, so it sees what it wrote.
  for (uint i = self; i < COLUMNS; i += 256) {
    t[row * COLUMNS + i] = 0;
  }
  for (uint begin = 0; begin < COUNT; begin += 256) {
    const bool hit = begin + self < COUNT && uint(ids[begin + self]) == FIRST + row;
    barrier();
    hits[self] = hit;
    if (workgroup_max(uint(hit)) == 0) {
      continue;
    }
    for (uint n = 0; n < 256; n++) {
      if (hits[n]) {
        for (uint i = self; i < COLUMNS; i += 256) {
          t[row * COLUMNS + i] += x[(begin + n) * COLUMNS + i];
        }
      }
    }
  }
}
