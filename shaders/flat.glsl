// COUNT floats, four at a time where COUNT is a multiple of 4: x_at(i) and x_set(i, value) for
// i < ITEMS, where x and x4 are one binding.
//
// The including file declares COUNT.

const uint ITEMS = COUNT % 4 == 0 ? COUNT / 4 : COUNT;

#define DEFINE_AT(NAME)                            \
  vec4 NAME##_at(uint i) {                         \
    return COUNT % 4 == 0 ? NAME##4[i] : vec4(NAME[i]); \
  }

#define DEFINE_SET(NAME)                           \
  void NAME##_set(uint i, vec4 value) {            \
    if (COUNT % 4 == 0) {                          \
      NAME##4[i] = value;                          \
    } else {                                       \
      NAME[i] = value.x;                           \
    }                                              \
  }
