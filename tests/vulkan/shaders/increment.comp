#version 460
// increment: counts[i] += 1 for i < SIZE; the guard leaves the rest alone.
//
// Bindings:
//   0 update counts u32[SIZE]
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint SIZE = 1;
layout(std430, binding = 0) buffer Counts { uint counts[]; };

void main() {
  const uint i = gl_GlobalInvocationID.x;
  if (i < SIZE) {
    counts[i] += 1;
  }
}
