#version 460
#extension GL_GOOGLE_include_directive : require
// thin_contract: y = a^T b with few rows or few columns, for each of some pairs of a and b; each of PARTS
// parts of the inner axis apart, which thin_sum adds up.
//
// Reference: op contract_rows.
// Bindings:
#pragma each
//   n read  a@ f32[INNER,ROWS@]
//   n read  b@ f32[INNER,COLUMNS@]
//   n write y@ f32[PARTS,ROWS@,COLUMNS@]
#pragma end
layout(constant_id = 0) const uint INNER = 1;
layout(constant_id = 1) const uint PARTS = 1;
layout(constant_id = 2) const uint LANES = 4;
layout(constant_id = 3) const uint WORKGROUP = 128;
#pragma each
layout(constant_id = n) const uint ROWS@ = 1;
layout(constant_id = n) const uint COLUMNS@ = 1;
#pragma end
layout(local_size_x_id = 3) in;
const uint EACH = 8;
const uint CELLS = 32;
#include "thin.glsl"

const uint AHEAD = 4;  // items of the inner axis that are on their way at once
const uint STEP = AHEAD * LANES;
const uint PART = (INNER + PARTS * STEP - 1) / (PARTS * STEP) * STEP;
const uint STRIP = CELLS / QUADS * 4;  // items of the wide side that threads side by side have
const uint WIDE = STRIP * EACH / 4;    // the same of a tile

uint wide_of(uint tile, uint thin_tiles) {
  return tile / thin_tiles * WIDE + gl_LocalInvocationIndex % CELLS / QUADS * 4;
}

uint thin_of(uint tile, uint thin_tiles) {
  return tile % thin_tiles * TILE + quad() * 4;
}

#pragma each
MATRIX_F32(a@, AT_a@, INNER, ROWS@)
MATRIX_F32(b@, AT_b@, INNER, COLUMNS@)
RESULT_F32(y@, AT_y@, COLUMNS@, 0, COLUMNS@)
const bool TALL@ = ROWS@ > COLUMNS@;  // a is the wide one
const uint THIN_TILES@ = ((TALL@ ? COLUMNS@ : ROWS@) + TILE - 1) / TILE;
const uint TILES@ = ((TALL@ ? ROWS@ : COLUMNS@) + WIDE - 1) / WIDE * THIN_TILES@;

vec4 load_wide@(uint k, uint i) {
  if (TALL@) {
    return load_a@(k, i);
  }
  return load_b@(k, i);
}

vec4 load_thin@(uint k, uint i) {
  if (TALL@) {
    return load_b@(k, i);
  }
  return load_a@(k, i);
}

void contract@(uint part, uint wide, uint thin, inout vec4 sums[EACH]) {
  const uint begin = part * PART;
  for (uint k = begin + lane(); k < min(begin + PART, INNER); k += STEP) {
    vec4 a[AHEAD][EACH / 4], b[AHEAD];
    [[unroll]] for (uint n = 0; n < AHEAD; n++) {
      b[n] = load_thin@(k + n * LANES, thin);
      [[unroll]] for (uint i = 0; i < EACH / 4; i++) {
        a[n][i] = load_wide@(k + n * LANES, wide + i * STRIP);
      }
    }
    [[unroll]] for (uint n = 0; n < AHEAD; n++) {
      [[unroll]] for (uint i = 0; i < EACH; i++) {
        sums[i] += a[n][i / 4][i % 4] * b[n];
      }
    }
  }
}

// Sums of four items of the wide side by four of the thin one.
void store@(uint part, uint wide, uint thin, vec4 some[4]) {
  const uint first = part * ROWS@;
  [[unroll]] for (uint i = 0; i < 4; i++) {
    if (TALL@) {
      if (wide + i < ROWS@) {
        store_y@(first + wide + i, thin, some[i]);
      }
    } else if (thin + i < ROWS@) {
      store_y@(first + thin + i, wide, vec4(some[0][i], some[1][i], some[2][i], some[3][i]));
    }
  }
}
#pragma end

// Tiles of the members take turns, so that members which share a factor read it at about the same time.
void main() {
  const uint member = group() % MEMBERS;
  const uint part = group() / MEMBERS % PARTS;
  const uint tile = group() / MEMBERS / PARTS;
  vec4 sums[EACH];
  [[unroll]] for (uint i = 0; i < EACH; i++) {
    sums[i] = vec4(0);
  }
#pragma each
  if (member == @) {
    if (tile >= TILES@) {
      return;
    }
    contract@(part, wide_of(tile, THIN_TILES@), thin_of(tile, THIN_TILES@), sums);
  }
#pragma end
  add_lanes(sums);
  if (lane() == 0) {
    [[unroll]] for (uint i = 0; i < EACH; i += 4) {
      const vec4 some[4] = vec4[4](sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
#pragma each
      if (member == @) {
        store@(part, wide_of(tile, THIN_TILES@) + i / 4 * STRIP, thin_of(tile, THIN_TILES@), some);
      }
#pragma end
    }
  }
}
