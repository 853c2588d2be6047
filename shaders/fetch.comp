#version 460
#extension GL_GOOGLE_include_directive : require
// fetch: x = window[cursor], the input of the present step out of those of many.
//
// Bindings:
//   0 read  cursor i32[1]
//   1 read  window u32[STEPS,WORDS]
//   2 write x      u32[WORDS]
layout(constant_id = 0) const uint STEPS = 1;
layout(constant_id = 1) const uint WORDS = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Cursor { int cursor[]; };
layout(binding = 1, std430) readonly buffer Window { uint window[]; };
layout(binding = 2, std430) writeonly buffer X { uint x[]; };
#include "index.glsl"

void main() {
  const uint i = item();
  const uint step = uint(cursor[0]);
  if (i < WORDS && step < STEPS) {
    x[i] = window[step * WORDS + i];
  }
}
