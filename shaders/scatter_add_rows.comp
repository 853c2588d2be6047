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
layout(constant_id = 4) const uint WORKGROUP = 256;
layout(local_size_x_id = 4) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) readonly buffer Ids { int ids[]; };
layout(binding = 2, std430) buffer T { float t[]; };
#include "index.glsl"
#include "reduce.glsl"

// WORKGROUP - n for the first invocation n that has a hit, 0 if none has.
uint next(bool hit) {
  return workgroup_max(hit ? WORKGROUP - gl_LocalInvocationIndex : 0);
}

void main() {
  const uint row = group(), self = gl_LocalInvocationIndex;
  if (row >= TABLE_ROWS) {
    return;
  }
  // Each invocation has columns of its own, so it sees what it wrote.
  for (uint i = self; i < COLUMNS; i += WORKGROUP) {
    t[row * COLUMNS + i] = 0;
  }
  for (uint begin = 0; begin < COUNT; begin += WORKGROUP) {
    bool hit = begin + self < COUNT && uint(ids[begin + self]) == FIRST + row;
    for (uint left = next(hit); left > 0; left = next(hit)) {
      const uint n = WORKGROUP - left;
      hit = hit && self != n;
      for (uint i = self; i < COLUMNS; i += WORKGROUP) {
        t[row * COLUMNS + i] += x[(begin + n) * COLUMNS + i];
      }
    }
  }
}
