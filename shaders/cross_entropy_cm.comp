#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_shader_subgroup_clustered : require
// cross_entropy_cm: what cross_entropy_f16 computes, KEPT included, on matrix units.
//
// Reference: op linear_cross_entropy; cross_entropy_merge makes its results of these. WIDTH is a
// multiple of 32.
// Bindings:
//   0 read  h       f16[TERMS,HIGH,WIDTH]
//   1 read  table   f16[COLUMNS,WIDTH]
//   2 read  targets i32[PITCH]
//   3 read  rows    u32[ROWS]
#ifdef KEPT
//   4 read  count   u32[2]
#else
//   4 read  count   u32[1]
#endif
//   5 read  power   f32[ROWS]
#ifdef KEPT
//   6 write partial f32[TILES,3,PLACES]
//   n write z       f32[PLACES,COLUMNS]
#else
//   6 write partial f32[TILES,3,PITCH]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint WIDTH = 32;
layout(constant_id = 2) const uint COLUMNS = 1;
layout(constant_id = 3) const uint TERMS = 2;
layout(constant_id = 4) const uint TILE_M = 128;
layout(constant_id = 5) const uint TILE_N = 128;
layout(constant_id = 6) const uint WARP_M = 64;
layout(constant_id = 7) const uint WARP_N = 32;
layout(constant_id = 8) const uint SUBGROUP_SIZE = 32;
layout(constant_id = 9) const uint WORKGROUP = 256;
layout(constant_id = 10) const uint TILES = 1;
layout(constant_id = 11) const uint PITCH = 1;
layout(constant_id = 12) const uint HIGH = 128;
#ifdef KEPT
layout(constant_id = 13) const uint PLACES = 1;
#endif
layout(local_size_x_id = 9) in;
layout(binding = 0, std430) readonly buffer H8 { uvec4 h8[]; };
layout(binding = 1, std430) readonly buffer Table8 { uvec4 table8[]; };
layout(binding = 2, std430) readonly buffer Targets { int targets[]; };
layout(binding = 3, std430) readonly buffer Rows { uint rows[]; };
layout(binding = 4, std430) readonly buffer Count { uint count[]; };
layout(binding = 5, std430) readonly buffer Power { float power[]; };
layout(binding = 6, std430) writeonly buffer Partial { float partial[]; };
#ifdef KEPT
layout(binding = AT_z, std430) writeonly buffer Z4 { vec4 z4[]; };
#endif
#include "logits_units.glsl"

const float NONE = -1e30;
shared uint row_ids[TILE_M];                  // ROWS for none
shared float picked[TILE_M];

// The largest and the sum over a strip's columns, two of them in 16 bytes of shared memory behind the sums.
void put_strip(uint strip, uint line, vec2 found) {
  const uint i = strip * TILE_M + line;
  staged[SIZE_SUMS + i / 2][i % 2 * 2] = floatBitsToUint(found.x);
  staged[SIZE_SUMS + i / 2][i % 2 * 2 + 1] = floatBitsToUint(found.y);
}

vec2 get_strip(uint strip, uint line) {
  const uint i = strip * TILE_M + line;
  const uvec4 two = staged[SIZE_SUMS + i / 2];
  return uintBitsToFloat(i % 2 == 0 ? two.xy : two.zw);
}

// Eight threads side by side have the 32 columns of a strip.
void store_quad(uint place, uint column, uvec4 bits) {
  const uint line = place - first_place();
  const uint row = row_ids[line];
  float scale = 1;
  int target = -1;
  if (row < ROWS) {
    scale = power[row];
    target = targets[row] - int(column);
  }
  const vec4 z = scale * uintBitsToFloat(bits);
#ifdef KEPT
  if (row < ROWS && column < COLUMNS) {
    z4[((place - count[1]) * COLUMNS + column) / 4] = z;
  }
#endif
  float top = NONE;
  [[unroll]] for (uint j = 0; j < 4; j++) {
    if (column + j < COLUMNS) {
      top = max(top, z[j]);
      if (target == int(j)) {
        picked[line] = z[j];
      }
    }
  }
  top = subgroupClusteredMax(top, 8);
  float total = 0;
  [[unroll]] for (uint j = 0; j < 4; j++) {
    if (column + j < COLUMNS) {
      total += exp(z[j] - top);
    }
  }
  total = subgroupClusteredAdd(total, 8);
  if (gl_SubgroupInvocationID % 8 == 0) {
    put_strip((column - first_column()) / STRIP, line, vec2(top, total));
  }
}

void write_partial(uint line) {
  float top = NONE, total = 0;
  [[unroll]] for (uint strip = 0; strip < TILE_N / STRIP; strip++) {
    top = max(top, get_strip(strip, line).x);
  }
  [[unroll]] for (uint strip = 0; strip < TILE_N / STRIP; strip++) {
    const vec2 found = get_strip(strip, line);
    total += found.y * exp(found.x - top);
  }
#ifdef KEPT
#define SPAN PLACES
  const uint place = first_place() + line - count[1];
#else
#define SPAN PITCH
  const uint place = row_ids[line];
#endif
  const uint at = group() / TILES_M * 3 * SPAN + place;
  partial[at] = top;
  partial[at + SPAN] = total;
  partial[at + 2 * SPAN] = picked[line];
}

void main() {
  const uint thread = gl_LocalInvocationIndex;
  if (first_place() < count[0] && first_column() < COLUMNS) {
    for (uint line = thread; line < TILE_M; line += WORKGROUP) {
      picked[line] = 0;
      row_ids[line] = ROWS;
      if (first_place() + line < count[0]) {
        row_ids[line] = rows[first_place() + line];
      }
    }
    multiply_tile(first_place(), first_column());
    barrier();
    for (uint line = thread; line < TILE_M; line += WORKGROUP) {
      if (row_ids[line] < ROWS) {
        write_partial(line);
      }
    }
  }
}
