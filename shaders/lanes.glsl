// Sums that LANES threads share, LANES a power of two: each has SUMS of them. The includer has the
// constants LANES and WORKGROUP and defines SUMS. With SHUFFLED the lanes are of
// one subgroup: the includer has the constant SUBGROUP_SIZE, and LANES is no more than that.

#extension GL_EXT_control_flow_attributes : require
#ifdef SHUFFLED
#extension GL_KHR_shader_subgroup_shuffle : require
#endif
#include "index.glsl"

float sums[SUMS];

// This thread's number among those that share sums.
uint lane() {
  return gl_LocalInvocationIndex % LANES;
}

// The number of the sums that this thread and the lanes beside it share.
uint shared_item() {
  return group() * (WORKGROUP / LANES) + gl_LocalInvocationIndex / LANES;
}

#ifdef SHUFFLED
// Add up what the lanes have in `sums`, always in the same order; all of them get the totals.
void add_lanes() {
  [[unroll]] for (uint distance = LANES / 2; distance > 0; distance /= 2) {
    [[unroll]] for (uint i = 0; i < SUMS; i++) {
      sums[i] += subgroupShuffleXor(sums[i], distance);
    }
  }
}
#else
shared float partial[SUMS * WORKGROUP];

void add_lanes() {
  const uint thread = gl_LocalInvocationIndex;
  [[unroll]] for (uint i = 0; i < SUMS; i++) {
    partial[i * WORKGROUP + thread] = sums[i];
  }
  for (uint distance = LANES / 2; distance > 0; distance /= 2) {
    barrier();
    if (lane() < distance) {
      for (uint i = thread; i < SUMS * WORKGROUP; i += WORKGROUP) {
        partial[i] += partial[i + distance];
      }
    }
  }
  barrier();
  [[unroll]] for (uint i = 0; i < SUMS; i++) {
    sums[i] = partial[i * WORKGROUP + thread / LANES * LANES];
  }
}
#endif
