#version 460
#extension GL_GOOGLE_include_directive : require
// nonfinite: flag = 1 if any of COUNT numbers x is a NaN or an infinity; else it stays as it is.
//
// Bindings:
//   0 read   x    f32[COUNT]
//   1 update flag u32[1]
layout(constant_id = 0) const uint COUNT = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) buffer Flag { uint flag[]; };
#include "index.glsl"
#include "magnitude.glsl"

void main() {
  const uint i = item();
  if (i < COUNT && magnitude(x[i]) >= INFINITE) {
    atomicOr(flag[0], 1);
  }
}
