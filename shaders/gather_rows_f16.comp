#version 460
#extension GL_GOOGLE_include_directive : require
// gather_rows_f16: y[n] = table[ids[n] - FIRST], one workgroup a row; rows outside the table, which
// may be a part of a larger one, are left alone.
//
// Reference: op gather_rows, of which this is all for a table in one part.
// Bindings:
//   0 read  table f16[TABLE_ROWS,COLUMNS]
//   1 read  ids   i32[COUNT]
//   2 write y     f32[COUNT,COLUMNS]
layout(constant_id = 0) const uint TABLE_ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const uint COUNT = 1;
layout(constant_id = 3) const uint FIRST = 0;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Table { uint table[]; };
layout(binding = 0, std430) readonly buffer Table2 { uvec2 table2[]; };
layout(binding = 1, std430) readonly buffer Ids { int ids[]; };
layout(binding = 2, std430) writeonly buffer Y { float y[]; };
layout(binding = 2, std430) writeonly buffer Y4 { vec4 y4[]; };
#include "index.glsl"
#include "rows.glsl"

// As DEFINE_AT, from pairs of half floats; rows of an odd width begin within a pair.
vec4 table_at(uint row, uint column) {
  if (COLUMNS % 4 == 0) {
    const uvec2 pairs = table2[row * COLUMNS4 + column];
    return vec4(unpackHalf2x16(pairs.x), unpackHalf2x16(pairs.y));
  }
  vec4 value = vec4(0);
  for (uint i = 0; i < 4; i++) {
    if (4 * column + i < COLUMNS) {
      const uint element = row * COLUMNS + 4 * column + i;
      value[i] = unpackHalf2x16(table[element / 2])[element % 2];
    }
  }
  return value;
}

DEFINE_SET(y)

void main() {
  const uint n = group();
  if (n >= COUNT) {
    return;
  }
  const uint row = uint(ids[n]) - FIRST;
  if (row < TABLE_ROWS) {
    for (uint i = gl_LocalInvocationIndex; i < COLUMNS4; i += gl_WorkGroupSize.x) {
      y_set(n, i, table_at(row, i));
    }
  }
}
