#version 460
#extension GL_GOOGLE_include_directive : require
// until_stop: next = ids, or -1 for a row that has stopped; a row stops behind an id among stops.
//
// Reference: op until_stop.
// Bindings:
//   0 read   ids     i32[ROWS]
//   1 read   stops   i32[STOPS]
//   2 write  next    i32[ROWS]
//   3 update stopped i32[ROWS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint STOPS = 1;
layout(local_size_x = 32) in;
layout(binding = 0, std430) readonly buffer Ids { int ids[]; };
layout(binding = 1, std430) readonly buffer Stops { int stops[]; };
layout(binding = 2, std430) writeonly buffer Next { int next[]; };
layout(binding = 3, std430) buffer Stopped { int stopped[]; };
#include "index.glsl"

void main() {
  const uint row = item();
  if (row >= ROWS) {
    return;
  }
  bool stops_here = stopped[row] != 0;
  next[row] = stops_here ? -1 : ids[row];
  for (uint k = 0; k < STOPS; k++) {
    stops_here = stops_here || ids[row] == stops[k];
  }
  stopped[row] = int(stops_here);
}
