#version 460
#extension GL_GOOGLE_include_directive : require
// thin_matmul: y = FACTOR a b^T, or FACTOR a b with ACROSS, of few columns, for each of some pairs of a
// and b.
//
// Reference: op matmul, then scale.
// Bindings:
#pragma each
//   n read  a@ f32[ROWS,INNER@]
#ifdef ACROSS
//   n read  b@ f32[INNER@,COLUMNS]
#else
//   n read  b@ f32[COLUMNS,INNER@]
#endif
//   n write y@ f32[ROWS,COLUMNS]
#pragma end
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint COLUMNS = 1;
layout(constant_id = 2) const float FACTOR = 1.0;
layout(constant_id = 3) const uint EACH = 4;
layout(constant_id = 4) const uint LANES = 32;
layout(constant_id = 5) const uint WORKGROUP = 128;
#pragma each
layout(constant_id = n) const uint INNER@ = 1;
#pragma end
layout(local_size_x_id = 5) in;
const uint CELLS = 4;  // a tile has EACH rows
#include "thin.glsl"

const uint TILES_N = (COLUMNS + TILE - 1) / TILE;

vec4 product(vec4 a, vec4 b[4]) {
#ifdef ACROSS
  return a.x * b[0] + a.y * b[1] + a.z * b[2] + a.w * b[3];
#else
  return vec4(dot(a, b[0]), dot(a, b[1]), dot(a, b[2]), dot(a, b[3]));
#endif
}

const uint LAST_QUAD = (COLUMNS - 1) / 4 * 4;

// What lies outside is read in another place: a load without a condition is faster, and that of an item
// of a past its end is zero, while what a row or a column past its end gives is not stored.
#pragma each
MATRIX_F32(a@, AT_a@, ROWS, INNER@)
#ifdef ACROSS
MATRIX_F32(b@, AT_b@, INNER@, COLUMNS)
#else
MATRIX_F32(b@, AT_b@, COLUMNS, INNER@)
#endif
RESULT_F32(y@, AT_y@, COLUMNS, 0, COLUMNS)

void multiply@(uint row, uint column, inout vec4 sums[EACH]) {
  for (uint k = 4 * lane(); k < INNER@; k += 4 * LANES) {
    vec4 a[EACH], b[4];
    [[unroll]] for (uint i = 0; i < EACH; i++) {
      a[i] = inside_a@(min(row + i, ROWS - 1), k);
    }
    [[unroll]] for (uint i = 0; i < 4; i++) {
#ifdef ACROSS
      b[i] = inside_b@(INNER@ % 4 == 0 ? k + i : min(k + i, INNER@ - 1), min(column, LAST_QUAD));
#else
      b[i] = inside_b@(min(column + i, COLUMNS - 1), k);
#endif
    }
    [[unroll]] for (uint i = 0; i < EACH; i++) {
      sums[i] += product(a[i], b);
    }
  }
}
#pragma end

void store(uint member, uint row, uint column, vec4 y) {
#pragma each
  if (member == @) {
    store_y@(row, column, y);
  }
#pragma end
}

// Tiles of the members take turns, so that members which share a factor read it at about the same time.
void main() {
  const uint member = group() % MEMBERS;
  const uint row = group() / MEMBERS / TILES_N * EACH;
  const uint first = group() / MEMBERS % TILES_N * TILE;
  if (row >= ROWS) {
    return;
  }
  vec4 sums[EACH];
  [[unroll]] for (uint i = 0; i < EACH; i++) {
    sums[i] = vec4(0);
  }
  const uint column = first + 4 * quad();
#pragma each
  if (member == @) {
    multiply@(row, column, sums);
  }
#pragma end
  add_lanes(sums);
  if (lane() == 0) {
    [[unroll]] for (uint i = 0; i < EACH; i++) {
      if (row + i < ROWS) {
        store(member, row + i, column, FACTOR * sums[i]);
      }
    }
  }
}
