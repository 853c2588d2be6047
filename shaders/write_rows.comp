#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// write_rows: cache[slots[n] - FIRST] = x[n], one workgroup a row of x; the last of several rows
// for one slot counts. Slots outside the cache, which may be a part of a larger one, are skipped.
//
// Reference: op write_rows on a copy of the cache.
// Bindings:
//   0 update cache f32[CACHE_ROWS,COLUMNS]
//   1 read   x     f32[COUNT,COLUMNS]
//   2 read   slots i32[COUNT]
layout(constant_id = 0) const uint CACHE_ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const uint COUNT = 1;
layout(constant_id = 3) const uint FIRST = 0;
layout(constant_id = 4) const uint WORKGROUP = 256;
layout(local_size_x_id = 4) in;
layout(binding = 0, std430) buffer Cache { float cache[]; };
layout(binding = 0, std430) buffer Cache4 { vec4 cache4[]; };
layout(binding = 1, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) readonly buffer X4 { vec4 x4[]; };
layout(binding = 2, std430) readonly buffer Slots { int slots[]; };
#include "index.glsl"
#include "reduce.glsl"
#include "rows.glsl"
DEFINE_AT(x)
DEFINE_SET(cache)

void main() {
  const uint n = group();
  if (n >= COUNT) {
    return;
  }
  bool superseded = false;
  for (uint k = n + 1 + gl_LocalInvocationIndex; k < COUNT; k += WORKGROUP) {
    superseded = superseded || slots[k] == slots[n];
  }
  const uint row = uint(slots[n]) - FIRST;
  if (workgroup_max(uint(superseded)) == 0 && row < CACHE_ROWS) {
    for (uint i = gl_LocalInvocationIndex; i < COLUMNS4; i += WORKGROUP) {
      cache_set(row, i, x_at(n, i));
    }
  }
}
