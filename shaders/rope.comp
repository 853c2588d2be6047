#version 460
#extension GL_GOOGLE_include_directive : require
// rope: rotates the pairs (i, i + WIDTH / 2) of each head by the angles of its row, backwards if
// INVERSE; four pairs an invocation where the heads allow it.
//
// Reference: op rope; the table holds cosines, then sines.
// Bindings:
//   0 read  x     f32[ROWS,HEADS,WIDTH]
//   1 read  table f32[ROWS,WIDTH]
//   2 write y     f32[ROWS,HEADS,WIDTH] over x
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint HEADS = 1;
layout(constant_id = 2) const uint WIDTH = 2;
layout(constant_id = 3) const bool INVERSE = false;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 0, std430) readonly buffer X4 { vec4 x4[]; };
layout(binding = 1, std430) readonly buffer Table { float table[]; };
layout(binding = 1, std430) readonly buffer Table4 { vec4 table4[]; };
layout(binding = 2, std430) writeonly buffer Y { float y[]; };
layout(binding = 2, std430) writeonly buffer Y4 { vec4 y4[]; };
#include "index.glsl"

// Half a head, in units of one element or of four.
const uint HALF = WIDTH % 8 == 0 ? WIDTH / 8 : WIDTH / 2;

void main() {
  const uint i = item(), head = i / HALF, row = head / HEADS;
  if (row >= ROWS) {
    return;
  }
  const uint low = i + head * HALF, high = low + HALF;
  const uint cosine = i % HALF + row * 2 * HALF, sine = cosine + HALF;
  float sign = INVERSE ? -1 : 1;
  if (WIDTH % 8 == 0) {
    const vec4 c = table4[cosine], s = sign * table4[sine], a = x4[low], b = x4[high];
    y4[low] = a * c - b * s;
    y4[high] = b * c + a * s;
  } else {
    const float c = table[cosine], s = sign * table[sine], a = x[low], b = x[high];
    y[low] = a * c - b * s;
    y[high] = b * c + a * s;
  }
}
