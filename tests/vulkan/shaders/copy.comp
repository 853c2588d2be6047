#version 460
// copy: y = x, in words.
//
// Bindings:
//   0 read  x u32[SIZE]
//   1 write y u32[SIZE]
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint SIZE = 1;
layout(std430, binding = 0) readonly buffer X { uint x[]; };
layout(std430, binding = 1) writeonly buffer Y { uint y[]; };

void main() {
  const uint i = gl_GlobalInvocationID.x;
  if (i < SIZE) {
    y[i] = x[i];
  }
}
