// c = combine(a, b) for each of COUNT elements, four at a time where COUNT is a multiple of 4.
//
// The including file declares COUNT and defines `combine`.
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer A { float a[]; };
layout(binding = 0, std430) readonly buffer A4 { vec4 a4[]; };
layout(binding = 1, std430) readonly buffer B { float b[]; };
layout(binding = 1, std430) readonly buffer B4 { vec4 b4[]; };
layout(binding = 2, std430) writeonly buffer C { float c[]; };
layout(binding = 2, std430) writeonly buffer C4 { vec4 c4[]; };
#include "index.glsl"

vec4 combine(vec4 a, vec4 b);

void main() {
  const uint i = item();
  if (COUNT % 4 == 0) {
    if (i < COUNT / 4) {
      c4[i] = combine(a4[i], b4[i]);
    }
  } else if (i < COUNT) {
    c[i] = combine(vec4(a[i]), vec4(b[i])).x;
  }
}
