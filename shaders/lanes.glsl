// Sums of products that LANES threads share, LANES a power of two, for each of ROWS rows. The
// includer has the constants LANES, ROWS and WORKGROUP, and defines SUM, the type of a sum.

#extension GL_EXT_control_flow_attributes : require
#include "index.glsl"

shared SUM partial[ROWS * WORKGROUP];

// This thread's number among those that share sums.
uint lane() {
  return gl_LocalInvocationIndex % LANES;
}

// The number of the sums that this thread and the lanes beside it share.
uint shared_item() {
  return group() * (WORKGROUP / LANES) + gl_LocalInvocationIndex / LANES;
}

// Add up what the lanes have in `partial`, always in the same order. The first lane gets the sums.
void add_lanes() {
  const uint thread = gl_LocalInvocationIndex;
  for (uint distance = LANES / 2; distance > 0; distance /= 2) {
    barrier();
    if (lane() < distance) {
      for (uint i = thread; i < ROWS * WORKGROUP; i += WORKGROUP) {
        partial[i] += partial[i + distance];
      }
    }
  }
}
