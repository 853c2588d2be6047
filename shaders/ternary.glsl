// Ternary weights [HEIGHT, WIDTH] in 2-bit codes, 0 to 2 for -1 to 1 (graph/tensors.py).
//
// Flat row-major order in groups of 128 weights, 32 bytes each: byte p holds the weights p, 32 + p,
// 64 + p, 96 + p, the first in the top bits. So word w of a group, shifted right by 6 - 2 k, has in
// its bytes the weights 32 k + 4 w to 32 k + 4 w + 3. The scale follows the last group.

// The words of the weights, `float NAME_scale()` and `int NAME_bytes(row, column)`: four weights of
// a row from a multiple of 4 on, as signed bytes, zero outside the matrix.
#define TERNARY(NAME, BINDING, HEIGHT, WIDTH)                                           \
  layout(binding = BINDING, std430) readonly buffer NAME##_words { uint NAME[]; };      \
  float NAME##_scale() {                                                                \
    return uintBitsToFloat(NAME[((HEIGHT) * (WIDTH) + 127) / 128 * 8]);                 \
  }                                                                                     \
  int NAME##_bytes(uint row, uint column) {                                             \
    if (row >= (HEIGHT) || column >= (WIDTH)) {                                         \
      return 0;                                                                         \
    }                                                                                   \
    const uint i = row * (WIDTH) + column;                                              \
    if ((WIDTH) % 4 == 0) {                                                             \
      return signed_bytes(NAME[i / 128 * 8 + i % 32 / 4] >> code_shift(i));             \
    }                                                                                   \
    uint codes = 0x01010101;                                                            \
    for (uint j = 0; j < min(4, (WIDTH) - column); j++) {                               \
      const uint e = i + j;                                                             \
      const uint word = NAME[e / 128 * 8 + e % 32 / 4] >> (code_shift(e) + e % 4 * 8);  \
      codes = bitfieldInsert(codes, word, int(j * 8), 2);                               \
    }                                                                                   \
    return signed_bytes(codes);                                                         \
  }

// Where in each byte of its word a weight is.
uint code_shift(uint i) {
  return 6 - i % 128 / 32 * 2;
}

// The codes in the low bits of four bytes as weights. No byte borrows from the next.
int signed_bytes(uint codes) {
  return int(((codes & 0x03030303) | 0x80808080) - 0x01010101 ^ 0x80808080);
}

// Four signed bytes as floats.
vec4 to_floats(int bytes) {
  return vec4(bitfieldExtract(bytes, 0, 8), bitfieldExtract(bytes, 8, 8),
              bitfieldExtract(bytes, 16, 8), bitfieldExtract(bytes, 24, 8));
}
