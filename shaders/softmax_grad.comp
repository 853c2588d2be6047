#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// softmax_grad: of PLACES listed rows from the place count[1] on, whose logits z and results tile by tile
// cross_entropy+kept gives: nll = lse - z[target], and in the place of z its gradient
// spread exp(z - lse) - peak onehot(target); with HALVES as f16 in dz, divided as logits_grad_cm does.
// SLICES workgroups a row.
//
// Reference: ops linear_cross_entropy and linear_cross_entropy_grad, between their products.
// Bindings:
//   0 read   targets i32[PITCH]
//   1 read   rows    u32[ROWS]
//   2 read   count   u32[2]
//   3 read   spread  f32[ROWS]
//   4 read   peak    f32[ROWS]
//   5 read   partial f32[TILES,3,PLACES]
//   6 update nll     f32[ROWS]
#ifdef HALVES
//   7 read   z       f32[PLACES,COLUMNS]
//   8 write  dz      f16[PLACES,COLUMNS]
#else
//   7 update z       f32[PLACES,COLUMNS]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint PLACES = 1;
layout(constant_id = 2) const uint COLUMNS = 4;
layout(constant_id = 3) const uint TILES = 1;
layout(constant_id = 4) const uint PITCH = 1;
layout(constant_id = 5) const uint SLICES = 1;
const uint THREADS = 256;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Targets { int targets[]; };
layout(binding = 1, std430) readonly buffer Rows { uint rows[]; };
layout(binding = 2, std430) readonly buffer Count { uint count[]; };
layout(binding = 3, std430) readonly buffer Spread { float spread[]; };
layout(binding = 4, std430) readonly buffer Peak { float peak[]; };
layout(binding = 5, std430) readonly buffer Partial { float partial[]; };
layout(binding = 6, std430) buffer Nll { float nll[]; };
#include "index.glsl"
#include "matrix.glsl"
#include "softmax_merge.glsl"
MATRIX_F32(z, 7, PLACES, COLUMNS)
#ifdef HALVES
layout(binding = 8, std430) writeonly buffer Dz4 { uvec2 dz4[]; };
#include "halves.glsl"
#include "gradient_scale.glsl"
#else
RESULT_F32(dz, 7, COLUMNS, 0, COLUMNS)
#endif

shared vec3 found[THREADS];

// The largest logit of a row, the sum of exp(z - largest), and z[target]; all threads call it together.
vec3 merge_tiles(uint place) {
  const uint thread = gl_LocalInvocationIndex;
  vec3 all = NOTHING;
  for (uint tile = thread; tile < TILES; tile += THREADS) {
    const uint i = tile * 3 * PLACES + place;
    all = merge(all, vec3(partial[i], partial[i + PLACES], partial[i + 2 * PLACES]));
  }
  found[thread] = all;
  barrier();
  for (uint reach = THREADS / 2; reach > 0; reach /= 2) {
    if (thread < reach) {
      found[thread] = merge(found[thread], found[thread + reach]);
    }
    barrier();
  }
  return found[0];
}

void store(uint place, uint column, uint row, vec4 gradient) {
#ifdef HALVES
  const vec4 scaled = gradient * (LARGEST / gradient_scale(row));
  dz4[(place * COLUMNS + column) / 4] = to_halves(scaled);
#else
  store_dz(place, column, gradient);
#endif
}

void main() {
  const uint place = group() / SLICES, slice = group() % SLICES;
  if (place >= PLACES || count[1] + place >= count[0]) {
    return;
  }
  const uint row = rows[count[1] + place];
  const vec3 whole = merge_tiles(place);
  const float lse = whole.x + log(whole.y);
  if (slice == 0 && gl_LocalInvocationIndex == 0) {
    nll[row] = lse - whole.z;
  }
  const uint step = 4 * THREADS * SLICES;
  for (uint i = 4 * (slice * THREADS + gl_LocalInvocationIndex); i < COLUMNS; i += step) {
    vec4 gradient = spread[row] * exp(load_z(place, i) - lse);
    const int target = targets[row] - int(i);
    [[unroll]] for (uint j = 0; j < 4; j++) {
      if (target == int(j)) {
        gradient[j] -= peak[row];
      }
    }
    store(place, i, row, gradient);
  }
}
