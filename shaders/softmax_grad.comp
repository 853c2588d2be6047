#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// softmax_grad: of PLACES listed rows from the place count[1] on, whose logits z and results tile by tile
// cross_entropy+kept or logits_partial gives: nll = lse - z[target], and in the place of z its gradient
// spread exp(z - lse) - peak onehot(target); with HALVES as f16 in dz, divided as logits_grad_cm does, and
// in panels (panels.glsl), of whose rows those that have no logits do not matter. With POWER the logits are
// z times the row's power. SLICES workgroups for TOGETHER rows.
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
//   8 write  dz      f16[HIGH,COLUMNS]
#else
//   7 update z       f32[PLACES,COLUMNS]
#endif
#ifdef POWER
//   n read   power   f32[ROWS]
#endif
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint PLACES = 1;
layout(constant_id = 2) const uint COLUMNS = 4;
layout(constant_id = 3) const uint TILES = 1;
layout(constant_id = 4) const uint PITCH = 1;
layout(constant_id = 5) const uint SLICES = 1;
layout(constant_id = 6) const uint TOGETHER = 1;
#ifdef HALVES
layout(constant_id = 7) const uint HIGH = 128;
#endif
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
#include "softmax_threads.glsl"
MATRIX_F32(z, 7, PLACES, COLUMNS)
#ifdef HALVES
layout(binding = 8, std430) writeonly buffer Dz4 { uvec2 dz4[]; };
#include "halves.glsl"
#include "gradient_scale.glsl"
#include "panels.glsl"
#else
RESULT_F32(dz, 7, COLUMNS, 0, COLUMNS)
#endif

#ifdef POWER
layout(binding = AT_power, std430) readonly buffer Power { float power[]; };
#endif

const uint LANES = THREADS / TOGETHER;  // threads that have a row
const uint STEP = 4 * LANES * SLICES;   // columns from one quad of a thread to its next
const uint AHEAD = 4;                   // quads that are asked for before one is used

uint lane() {
  return gl_LocalInvocationIndex / TOGETHER;
}

// The largest logit of a row, the sum of exp(z - largest), and z[target]; all threads call it together.
vec3 merge_tiles(uint place) {
  vec3 all = NOTHING;
  for (uint tile = lane(); tile < TILES; tile += LANES) {
    const uint i = tile * 3 * PLACES + min(place, PLACES - 1);
    all = merge(all, vec3(partial[i], partial[i + PLACES], partial[i + 2 * PLACES]));
  }
  return merge_threads(all);
}

void store(uint place, uint column, uint row, vec4 gradient) {
#ifdef HALVES
  const vec4 scaled = gradient * (LARGEST / gradient_scale(row));
  dz4[2 * place_in_panels(place, column / 8, COLUMNS / 8) + column / 4 % 2] = to_halves(scaled);
#else
  store_dz(place, column, gradient);
#endif
}

void main() {
  const uint place = group() / SLICES * TOGETHER + gl_LocalInvocationIndex % TOGETHER;
  const uint slice = group() % SLICES;
  const vec3 whole = merge_tiles(place);
  if (place >= PLACES || count[1] + place >= count[0]) {
    return;
  }
  const uint row = rows[count[1] + place];
  const float lse = whole.x + log(whole.y);
  if (slice == 0 && lane() == 0) {
    nll[row] = lse - whole.z;
  }
  float scale = 1;
#ifdef POWER
  scale = power[row];
#endif
  for (uint column = 4 * (slice * LANES + lane()); column < COLUMNS; column += AHEAD * STEP) {
    vec4 quads[AHEAD];
    [[unroll]] for (uint k = 0; k < AHEAD; k++) {
      quads[k] = load_z(place, column + k * STEP);
    }
    [[unroll]] for (uint k = 0; k < AHEAD; k++) {
      const uint at = column + k * STEP;
      vec4 gradient = spread[row] * exp(scale * quads[k] - lse);
      const int target = targets[row] - int(at);
      [[unroll]] for (uint j = 0; j < 4; j++) {
        if (target == int(j)) {
          gradient[j] -= peak[row];
        }
      }
      if (at < COLUMNS) {
        store(place, at, row, gradient);
      }
    }
  }
}
