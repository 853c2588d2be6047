// y = map(x) for each of COUNT elements, four at a time where COUNT is a multiple of 4.
//
// The including file declares COUNT and defines `map`.
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 0, std430) readonly buffer X4 { vec4 x4[]; };
layout(binding = 1, std430) writeonly buffer Y { float y[]; };
layout(binding = 1, std430) writeonly buffer Y4 { vec4 y4[]; };
#include "index.glsl"

vec4 map(vec4 x);

void main() {
  const uint i = item();
  if (COUNT % 4 == 0) {
    if (i < COUNT / 4) {
      y4[i] = map(x4[i]);
    }
  } else if (i < COUNT) {
    y[i] = map(vec4(x[i])).x;
  }
}
