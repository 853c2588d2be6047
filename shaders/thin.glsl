// Products with a narrow result, of a wide matrix that is read once and a narrow one. A thread has the
// sums of EACH lines of the wide side and of four of the narrow one, QUADS threads side by side those of
// one tile's TILE narrow lines. LANES groups of CELLS threads split the inner axis between them; in the
// end their sums are added up, so there is enough to do at once without a second stage.
//
// The includer has the constants EACH, a multiple of 4, LANES, a power of two, and WORKGROUP, the product
// of LANES and CELLS, which it has too.

#extension GL_EXT_control_flow_attributes : require
#include "index.glsl"
#include "matrix.glsl"

const uint TILE = 16;
const uint QUADS = TILE / 4;

shared vec4 handed[WORKGROUP / 2 * EACH];

uint lane() {
  return gl_LocalInvocationIndex / CELLS;
}

uint quad() {
  return gl_LocalInvocationIndex % QUADS;
}

// Add up the sums of all lanes in the first, always in the same order. All threads call it together.
void add_lanes(inout vec4 sums[EACH]) {
  const uint thread = gl_LocalInvocationIndex;
  for (uint reach = LANES / 2; reach > 0; reach /= 2) {
    if (lane() >= reach && lane() < 2 * reach) {
      [[unroll]] for (uint i = 0; i < EACH; i++) {
        handed[i * (WORKGROUP / 2) + thread - reach * CELLS] = sums[i];
      }
    }
    barrier();
    if (lane() < reach) {
      [[unroll]] for (uint i = 0; i < EACH; i++) {
        sums[i] += handed[i * (WORKGROUP / 2) + thread];
      }
    }
    barrier();
  }
}
