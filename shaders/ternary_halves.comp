#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// ternary_halves: y = the codes of some ternary matrices below each other as f16.
//
// Reference: the right factor of halves_product_nv. COLUMNS is a multiple of 128.
// Bindings:
//   0 write y f16[INNER,COLUMNS]
#pragma each
//   n read  w@ t2[INNER@,COLUMNS]
#pragma end
layout(constant_id = 0) const uint INNER = 1;
layout(constant_id = 1) const uint COLUMNS = 128;
#pragma each
layout(constant_id = n) const uint INNER@ = 1;
#pragma end
layout(local_size_x = 256) in;
layout(binding = 0, std430) writeonly buffer Y { uvec4 y[]; };
#include "halves.glsl"
#include "index.glsl"

#pragma each
layout(binding = AT_w@, std430) readonly buffer W@ { uvec2 w@[]; };
const uint PAIRS@ = INNER@ * (COLUMNS / 32);
#pragma end

// The first halves of 128 weights begin at an eighth of `pair` (ternary.glsl has their order).
void write(uint pair, uvec2 codes) {
  const uint first = pair / 4 * 16 + pair % 4;
  [[unroll]] for (uint q = 0; q < 4; q++) {
    const uvec2 shifted = codes >> (6 - 2 * q);
    y[first + 4 * q] = uvec4(weights_of(shifted.x), weights_of(shifted.y));
  }
}

void main() {
  uint pair = item();
#pragma each
  if (pair < PAIRS@) {
    write(item(), w@[pair]);
    return;
  }
  pair -= PAIRS@;
#pragma end
}
