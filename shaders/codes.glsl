// The int8 activations of a few rows as the kernel's operand has them: `quad_of_x(row, strip, k)` and
// `scale_of_x(row)`. The includer has the constants ROWS and INNER.
//
// Strip 2 g + h of a ternary matrix has the words 4 h to 4 h + 3 of group g; its codes at shift
// 6 - 2 k (ternary.glsl) belong to the 16 activations from 128 g + 32 k + 16 h on: quad k.

const uint STRIPS = INNER / 64;

layout(binding = 0, std430) readonly buffer X { int x[]; };
layout(binding = 0, std430) readonly buffer X4 { ivec4 x4[]; };

ivec4 quad_of_x(uint row, uint strip, uint k) {
  return x4[row * (INNER / 16) + strip / 2 * 8 + 2 * k + strip % 2];
}

float scale_of_x(uint row) {
  return intBitsToFloat(x[ROWS * INNER / 4 + row]);
}
