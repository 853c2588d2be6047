#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_control_flow_attributes : require
// scatter_add_rows: row r of t is the sum of the rows n of x with ids[n] = FIRST + r, added in
// their order, one workgroup a row of t, which may be a part of a larger one.
//
// A workgroup looks at SPAN ids at a time and lists those that are its row's. Then each invocation
// runs through the list with columns of its own, without waiting for the others.
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
layout(binding = 2, std430) writeonly buffer T { float t[]; };
#include "index.glsl"

const uint EACH = 4;  // neighbouring ids of an invocation
const uint SPAN = EACH * WORKGROUP;
const uint AHEAD = 8;  // rows of x on their way at once
const uint SUMS = (COLUMNS + WORKGROUP - 1) / WORKGROUP;

shared uint hits[SPAN];
shared uint subgroup_counts[WORKGROUP];
float sums[SUMS];

// Lists the places from `begin` on that hold the row's id, in order. The same count for all.
uint list_hits(uint begin, uint id) {
  const uint first = begin + gl_LocalInvocationIndex * EACH;
  bool hit[EACH];
  uint own = 0;
  [[unroll]] for (uint i = 0; i < EACH; i++) {
    hit[i] = first + i < COUNT && uint(ids[min(first + i, COUNT - 1)]) == id;
    own += uint(hit[i]);
  }
  const uint before = subgroupExclusiveAdd(own), together = subgroupAdd(own);
  barrier();  // the list and the counts of the span before have been read
  if (subgroupElect()) {
    subgroup_counts[gl_SubgroupID] = together;
  }
  barrier();
  uint place = before, count = 0;
  for (uint i = 0; i < gl_NumSubgroups; i++) {
    place += i < gl_SubgroupID ? subgroup_counts[i] : 0;
    count += subgroup_counts[i];
  }
  [[unroll]] for (uint i = 0; i < EACH; i++) {
    if (hit[i]) {
      hits[place++] = first + i;
    }
  }
  barrier();
  return count;
}

// Add column `column` of the listed rows to a sum; several are fetched before any is added.
float add_hits(float sum, uint column, uint count) {
  uint k = 0;
  for (; k + AHEAD <= count; k += AHEAD) {
    float ahead[AHEAD];
    [[unroll]] for (uint i = 0; i < AHEAD; i++) {
      ahead[i] = x[hits[k + i] * COLUMNS + column];
    }
    [[unroll]] for (uint i = 0; i < AHEAD; i++) {
      sum += ahead[i];
    }
  }
  for (; k < count; k++) {
    sum += x[hits[k] * COLUMNS + column];
  }
  return sum;
}

void main() {
  const uint row = group(), self = gl_LocalInvocationIndex;
  if (row >= TABLE_ROWS) {
    return;
  }
  [[unroll]] for (uint i = 0; i < SUMS; i++) {
    sums[i] = 0;
  }
  for (uint begin = 0; begin < COUNT; begin += SPAN) {
    const uint count = list_hits(begin, FIRST + row);
    [[unroll]] for (uint i = 0; i < SUMS; i++) {
      if (count > 0 && i * WORKGROUP + self < COLUMNS) {
        sums[i] = add_hits(sums[i], i * WORKGROUP + self, count);
      }
    }
  }
  [[unroll]] for (uint i = 0; i < SUMS; i++) {
    if (i * WORKGROUP + self < COLUMNS) {
      t[row * COLUMNS + i * WORKGROUP + self] = sums[i];
    }
  }
}
