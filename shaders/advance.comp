#version 460
// advance: cursor += 1, at the end of a step.
//
// Bindings:
//   0 update cursor i32[1]
layout(local_size_x = 1) in;
layout(binding = 0, std430) buffer Cursor { int cursor[]; };

void main() {
  cursor[0] += 1;
}
