#version 460
#extension GL_GOOGLE_include_directive : require
// rope_table: row n has the cosines of positions[n] frequencies, then the sines.
//
// Reference: op rope_table. GLSL's own cosine is only good to 2^-11, so the angle is reduced to
// [-pi/4, pi/4] (Cody and Waite, 1980) and Taylor's series taken there.
// Bindings:
//   0 read  positions   i32[ROWS]
//   1 read  frequencies f32[HALF]
//   2 write table       f32[ROWS,2,HALF]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint HALF = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Positions { int positions[]; };
layout(binding = 1, std430) readonly buffer Frequencies { float frequencies[]; };
layout(binding = 2, std430) writeonly buffer Table { float table[]; };
#include "index.glsl"

// pi / 2 in three parts; the first two have 8 bits, so that up to 2^16 times them is exact.
const float PART0 = 201.0 / 128.0;
const float PART1 = 253.0 / 524288.0;
const float PART2 = 1.267590847e-06;

void main() {
  const uint i = item(), row = i / HALF, column = i % HALF;
  if (row >= ROWS) {
    return;
  }
  precise const float angle = float(positions[row]) * frequencies[column];
  const float turns = roundEven(angle * 0.63661977);
  precise float x = angle - turns * PART0;
  x = x - turns * PART1;
  x = x - turns * PART2;
  const float z = x * x;
  const float sine = x - x * z * (1.0 / 6 - z * (1.0 / 120 - z * (1.0 / 5040 - z / 362880)));
  const float cosine =
      1 - z * (0.5 - z * (1.0 / 24 - z * (1.0 / 720 - z * (1.0 / 40320 - z / 3628800))));
  const uint quarter = uint(int(turns)) % 4;
  const bool swapped = quarter % 2 == 1;
  const float c = swapped ? sine : cosine, s = swapped ? cosine : sine;
  table[row * 2 * HALF + column] = quarter == 1 || quarter == 2 ? -c : c;
  table[row * 2 * HALF + HALF + column] = quarter >= 2 ? -s : s;
}
