// Activations [HEIGHT, WIDTH] in int8 codes, each row padded to whole words, then the rows' scales.

// The words of the codes, `float NAME_scale(row)` and `ivec4 load_NAME(row, word)`: four words of a
// row from a multiple of 4 on, zero outside. Padding bytes may be anything.
#define QUANTIZED(NAME, BINDING, HEIGHT, WIDTH)                                            \
  layout(binding = BINDING, std430) readonly buffer NAME##_words { int NAME[]; };          \
  layout(binding = BINDING, std430) readonly buffer NAME##_quads { ivec4 NAME##_of4[]; };  \
  const uint NAME##_STRIDE = ((WIDTH) + 3) / 4;                                            \
  float NAME##_scale(uint row) {                                                           \
    return intBitsToFloat(NAME[(HEIGHT) * NAME##_STRIDE + row]);                           \
  }                                                                                        \
  ivec4 load_##NAME(uint row, uint word) {                                                 \
    ivec4 quad = ivec4(0);                                                                 \
    if (row >= (HEIGHT) || word >= NAME##_STRIDE) {                                        \
      return quad;                                                                         \
    }                                                                                      \
    const uint i = row * NAME##_STRIDE + word;                                             \
    if (NAME##_STRIDE % 4 == 0) {                                                          \
      return NAME##_of4[i / 4];                                                            \
    }                                                                                      \
    for (uint j = 0; j < min(4, NAME##_STRIDE - word); j++) {                              \
      quad[j] = NAME[i + j];                                                               \
    }                                                                                      \
    return quad;                                                                           \
  }
