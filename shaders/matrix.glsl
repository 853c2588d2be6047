// Plain row-major matrices in storage buffers, read and written four items of a row at a time.
// Columns are multiples of 4; what lies outside a matrix reads as zero and is not written.

// A matrix of f32 and `vec4 load_NAME(row, column)`; `inside_NAME` for what is known to lie inside.
#define MATRIX_F32(NAME, BINDING, HEIGHT, WIDTH)                                          \
  layout(binding = BINDING, std430) readonly buffer NAME##_items { float NAME[]; };       \
  layout(binding = BINDING, std430) readonly buffer NAME##_quads { vec4 NAME##_of4[]; };  \
  vec4 inside_##NAME(uint row, uint column) {                                             \
    const uint i = row * (WIDTH) + column;                                                \
    if ((WIDTH) % 4 == 0) {                                                               \
      return NAME##_of4[i / 4];                                                           \
    }                                                                                     \
    vec4 quad = vec4(0);                                                                  \
    for (uint j = 0; j < min(4, (WIDTH) - column); j++) {                                 \
      quad[j] = NAME[i + j];                                                              \
    }                                                                                     \
    return quad;                                                                          \
  }                                                                                       \
  vec4 load_##NAME(uint row, uint column) {                                               \
    if (row >= (HEIGHT) || column >= (WIDTH)) {                                           \
      return vec4(0);                                                                     \
    }                                                                                     \
    return inside_##NAME(row, column);                                                    \
  }

// The same of f16. Where the width is odd, a row may begin in the middle of a word.
#define MATRIX_F16(NAME, BINDING, HEIGHT, WIDTH)                                          \
  layout(binding = BINDING, std430) readonly buffer NAME##_items { uint NAME[]; };        \
  layout(binding = BINDING, std430) readonly buffer NAME##_quads { uvec2 NAME##_of4[]; }; \
  vec4 load_##NAME(uint row, uint column) {                                               \
    vec4 quad = vec4(0);                                                                  \
    if (row >= (HEIGHT) || column >= (WIDTH)) {                                           \
      return quad;                                                                        \
    }                                                                                     \
    const uint i = row * (WIDTH) + column;                                                \
    if ((WIDTH) % 4 == 0) {                                                               \
      const uvec2 words = NAME##_of4[i / 4];                                              \
      return vec4(unpackHalf2x16(words.x), unpackHalf2x16(words.y));                      \
    }                                                                                     \
    for (uint j = 0; j < min(4, (WIDTH) - column); j++) {                                 \
      quad[j] = unpackHalf2x16(NAME[(i + j) / 2])[(i + j) % 2];                           \
    }                                                                                     \
    return quad;                                                                          \
  }

// COLUMNS columns from FIRST on of a matrix of f32 to write, whose rows have WIDTH items, and
// `store_NAME(row, column, quad)` with columns counted from FIRST.
#define RESULT_F32(NAME, BINDING, WIDTH, FIRST, COLUMNS)                                  \
  layout(binding = BINDING, std430) writeonly buffer NAME##_items { float NAME[]; };      \
  layout(binding = BINDING, std430) writeonly buffer NAME##_quads { vec4 NAME##_of4[]; }; \
  void store_##NAME(uint row, uint column, vec4 quad) {                                   \
    const uint i = row * (WIDTH) + (FIRST) + column;                                      \
    if ((WIDTH) % 4 == 0 && (FIRST) % 4 == 0 && (COLUMNS) % 4 == 0) {                     \
      if (column < (COLUMNS)) {                                                           \
        NAME##_of4[i / 4] = quad;                                                         \
      }                                                                                   \
    } else {                                                                              \
      for (uint j = 0; j < 4 && column + j < (COLUMNS); j++) {                            \
        NAME[i + j] = quad[j];                                                            \
      }                                                                                   \
    }                                                                                     \
  }
