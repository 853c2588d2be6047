#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// logits_partial: of each of TILES slices of a row of logits what cross_entropy+kept gives of a tile: the
// largest, the sum of exp(z - largest) and the label's. The logits are z times the row's power, of PLACES
// listed rows from the place count[1] on. A workgroup has a slice, whose columns lie apart.
//
// Reference: op linear_cross_entropy. COLUMNS is a multiple of 4.
// Bindings:
//   0 read  targets i32[PITCH]
//   1 read  rows    u32[ROWS]
//   2 read  count   u32[2]
//   3 read  power   f32[ROWS]
//   4 read  z       f32[PLACES,COLUMNS]
//   5 write partial f32[TILES,3,PLACES]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint PLACES = 128;
layout(constant_id = 2) const uint COLUMNS = 256;
layout(constant_id = 3) const uint TILES = 1;
layout(constant_id = 4) const uint PITCH = 1;
const uint THREADS = 256;
const uint TOGETHER = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Targets { int targets[]; };
layout(binding = 1, std430) readonly buffer Rows { uint rows[]; };
layout(binding = 2, std430) readonly buffer Count { uint count[]; };
layout(binding = 3, std430) readonly buffer Power { float power[]; };
layout(binding = 4, std430) readonly buffer Z4 { vec4 z4[]; };
layout(binding = 5, std430) writeonly buffer Partial { float partial[]; };
#include "index.glsl"
#include "softmax_merge.glsl"
#include "softmax_threads.glsl"

const uint STEP = 4 * THREADS * TILES;  // columns from one quad of an invocation to its next
const uint AHEAD = 4;                   // quads that are asked for before one is used

// What is known with four more logits, the first of them in so many columns before the label's.
vec3 with_quad(vec3 known, vec4 z, int target) {
  const float top = max(known.x, max(max(z.x, z.y), max(z.z, z.w)));
  const vec4 powers = exp(z - top);
  float total = known.y * exp(known.x - top) + powers.x + powers.y + powers.z + powers.w;
  float picked = known.z;
  [[unroll]] for (int j = 0; j < 4; j++) {
    if (target == j) {
      picked = z[j];
    }
  }
  return vec3(top, total, picked);
}

void main() {
  const uint place = group() / TILES, slice = group() % TILES;
  if (place >= PLACES || count[1] + place >= count[0]) {
    return;
  }
  const uint row = rows[count[1] + place];
  const float scale = power[row];
  const int target = targets[row];
  uint column = 4 * (slice * THREADS + gl_LocalInvocationIndex);
  vec3 known = NOTHING;
  for (; column + (AHEAD - 1) * STEP < COLUMNS; column += AHEAD * STEP) {
    vec4 quads[AHEAD];
    [[unroll]] for (uint k = 0; k < AHEAD; k++) {
      quads[k] = z4[(place * COLUMNS + column + k * STEP) / 4];
    }
    [[unroll]] for (uint k = 0; k < AHEAD; k++) {
      known = with_quad(known, scale * quads[k], target - int(column + k * STEP));
    }
  }
  for (; column < COLUMNS; column += STEP) {
    const vec4 quad = z4[(place * COLUMNS + column) / 4];
    known = with_quad(known, scale * quad, target - int(column));
  }
  known = merge_threads(known);
  if (gl_LocalInvocationIndex == 0) {
    const uint at = slice * 3 * PLACES + place;
    partial[at] = known.x;
    partial[at + PLACES] = known.y;
    partial[at + 2 * PLACES] = known.z;
  }
}
