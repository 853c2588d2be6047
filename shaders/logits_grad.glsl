// The body of logits_grad_f16.comp and logits_grad_f32.comp.

layout(binding = 2, std430) readonly buffer Targets { int targets[]; };
layout(binding = 3, std430) readonly buffer Rows { uint rows[]; };
layout(binding = 4, std430) readonly buffer Count { uint count[]; };
layout(binding = 5, std430) readonly buffer Spread { float spread[]; };
layout(binding = 6, std430) readonly buffer Peak { float peak[]; };
layout(binding = 7, std430) readonly buffer Lse { float lse[]; };
RESULT_F32(dz, 8, COLUMNS, 0, COLUMNS)
#include "logits.glsl"

void store_gradients(uint m, uint i) {
  const uint row = row_ids[place_of(m, i)];
  if (row < ROWS) {
    [[unroll]] for (uint n = 0; n < QUADS_N; n++) {
      vec4 dz = spread[row] * exp(sums[(4 * m + i) * QUADS_N + n] - lse[row]);
      [[unroll]] for (uint j = 0; j < 4; j++) {
        if (targets[row] == int(column_of(n, j))) {
          dz[j] -= peak[row];
        }
      }
      store_dz(first_place() + place_of(m, i), column_of(n, 0), dz);
    }
  }
}

void main() {
  if (first_place() < count[0] && first_column() < COLUMNS) {
    compute_logits();
    [[unroll]] for (uint m = 0; m < QUADS_M; m++) {
      [[unroll]] for (uint i = 0; i < 4; i++) {
        store_gradients(m, i);
      }
    }
  }
}
