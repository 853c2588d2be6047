#version 460
#extension GL_GOOGLE_include_directive : require
// store: log[cursor] = x, the result of the present step among those of many.
//
// Bindings:
//   0 read   cursor i32[1]
//   1 read   x      u32[WORDS]
//   2 update log    u32[STEPS,WORDS]
layout(constant_id = 0) const uint STEPS = 1;
layout(constant_id = 1) const uint WORDS = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Cursor { int cursor[]; };
layout(binding = 1, std430) readonly buffer X { uint x[]; };
layout(binding = 2, std430) buffer Log { uint log_[]; };
#include "index.glsl"

void main() {
  const uint i = item();
  const uint step = uint(cursor[0]);
  if (i < WORDS && step < STEPS) {
    log_[step * WORDS + i] = x[i];
  }
}
