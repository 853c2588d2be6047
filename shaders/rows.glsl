// Rows of COLUMNS floats, four at a time: x_at(row, column) and x_set(row, column, value) for the
// columns from 4 * column, where x and x4 are one binding. Past the end they read zeros and write
// nothing.
//
// The including file declares COLUMNS.

const uint COLUMNS4 = (COLUMNS + 3) / 4;

// Zeros for what lies past the end of the row.
vec4 within(uint column, vec4 value) {
  if (COLUMNS % 4 == 0) {
    return value;
  }
  return mix(vec4(0), value, lessThan(4 * column + uvec4(0, 1, 2, 3), uvec4(COLUMNS)));
}

#define DEFINE_AT(NAME)                               \
  vec4 NAME##_at(uint row, uint column) {             \
    if (COLUMNS % 4 == 0) {                           \
      return NAME##4[row * COLUMNS4 + column];        \
    }                                                 \
    vec4 value = vec4(0);                             \
    for (uint i = 0; i < 4; i++) {                    \
      if (4 * column + i < COLUMNS) {                 \
        value[i] = NAME[row * COLUMNS + 4 * column + i]; \
      }                                               \
    }                                                 \
    return value;                                     \
  }

#define DEFINE_SET(NAME)                              \
  void NAME##_set(uint row, uint column, vec4 value) { \
    if (COLUMNS % 4 == 0) {                           \
      NAME##4[row * COLUMNS4 + column] = value;       \
    } else {                                          \
      for (uint i = 0; i < 4; i++) {                  \
        if (4 * column + i < COLUMNS) {               \
          NAME[row * COLUMNS + 4 * column + i] = value[i]; \
        }                                             \
      }                                               \
    }                                                 \
  }
