// The body of cross_entropy_f16.comp and cross_entropy_f32.comp.

layout(binding = 2, std430) readonly buffer Targets { int targets[]; };
layout(binding = 3, std430) readonly buffer Rows { uint rows[]; };
layout(binding = 4, std430) readonly buffer Count { uint count[]; };
layout(binding = 5, std430) writeonly buffer Partial { float partial[]; };
#include "logits.glsl"

const float NONE = -1e30;
shared float tops[TILE_M];

// Lays a number where `row_parts` reads those of all invocations that share a row.
void set_part(uint place, float x) {
  const uint i = place * THREADS_N + thread_n();
  tile_a[i / 4][i % 4] = x;
}

float part(uint place, uint thread) {
  const uint i = place * THREADS_N + thread;
  return tile_a[i / 4][i % 4];
}

void set_result(uint kind, uint place, float x) {
#ifdef KEPT
#define SPAN PLACES
  const uint at = first_place() + place - count[1];
#else
#define SPAN PITCH
  const uint at = row_ids[place];
#endif
  if (row_ids[place] < ROWS) {
    partial[(group() / TILES_M * 3 + kind) * SPAN + at] = x;
  }
}

#ifdef KEPT
void keep(uint place, uint column, vec4 logits) {
  if (place < PLACES && count[1] + place < count[0]) {
    store_z(place, column, logits);
  }
}
#endif

void find_tops() {
  [[unroll]] for (uint m = 0; m < QUADS_M; m++) {
    [[unroll]] for (uint i = 0; i < 4; i++) {
      float top = NONE;
      [[unroll]] for (uint n = 0; n < QUADS_N; n++) {
        [[unroll]] for (uint j = 0; j < 4; j++) {
          if (column_of(n, j) < COLUMNS) {
            top = max(top, sums[(4 * m + i) * QUADS_N + n][j]);
          }
        }
      }
      set_part(place_of(m, i), top);
    }
  }
  barrier();
  for (uint place = gl_LocalInvocationIndex; place < TILE_M; place += WORKGROUP) {
    float top = NONE;
    for (uint t = 0; t < THREADS_N; t++) {
      top = max(top, part(place, t));
    }
    tops[place] = top;
    set_result(0, place, top);
  }
  barrier();
}

void find_totals() {
  [[unroll]] for (uint m = 0; m < QUADS_M; m++) {
    [[unroll]] for (uint i = 0; i < 4; i++) {
      float total = 0;
      [[unroll]] for (uint n = 0; n < QUADS_N; n++) {
        [[unroll]] for (uint j = 0; j < 4; j++) {
          if (column_of(n, j) < COLUMNS) {
            total += exp(sums[(4 * m + i) * QUADS_N + n][j] - tops[place_of(m, i)]);
          }
        }
      }
      set_part(place_of(m, i), total);
    }
  }
  barrier();
  for (uint place = gl_LocalInvocationIndex; place < TILE_M; place += WORKGROUP) {
    float total = 0;
    for (uint t = 0; t < THREADS_N; t++) {
      total += part(place, t);
    }
    set_result(1, place, total);
  }
  barrier();
}

// The logit of the row's label if it is in this tile, else zero.
void find_picked() {
  for (uint place = gl_LocalInvocationIndex; place < TILE_M; place += WORKGROUP) {
    tops[place] = 0;
  }
  barrier();
  [[unroll]] for (uint m = 0; m < QUADS_M; m++) {
    [[unroll]] for (uint i = 0; i < 4; i++) {
      const uint place = place_of(m, i);
      int target = -1;
      if (row_ids[place] < ROWS) {
        target = targets[row_ids[place]];
      }
      [[unroll]] for (uint n = 0; n < QUADS_N; n++) {
        [[unroll]] for (uint j = 0; j < 4; j++) {
          if (target == int(column_of(n, j)) && column_of(n, j) < COLUMNS) {
            tops[place] = sums[(4 * m + i) * QUADS_N + n][j];
          }
        }
      }
    }
  }
  barrier();
  for (uint place = gl_LocalInvocationIndex; place < TILE_M; place += WORKGROUP) {
    set_result(2, place, tops[place]);
  }
}

void main() {
  if (first_place() < count[0] && first_column() < COLUMNS) {
    compute_logits();
#ifdef KEPT
    STORE_TILE(keep, first_place() - count[1], first_column())
#endif
    find_tops();
    find_totals();
    find_picked();
  }
}
