// Magnitudes of floats as whole numbers in the same order: 0 for 0, INFINITE for an infinity, more
// than that for NaN. Drivers may assume that there is no NaN, but not that of the bits.

#ifndef MAGNITUDE
#define MAGNITUDE

const uint INFINITE = 0x7f800000;
const uint NOT_A_NUMBER = 0x7fc00000;
const float LARGEST = 3.4028234664e38;

uint magnitude(float x) {
  return floatBitsToUint(x) & 0x7fffffff;
}

// max(x, 0), but NaN for NaN.
vec4 positive_part(vec4 x) {
  const uvec4 magnitudes = floatBitsToUint(x) & 0x7fffffff;
  return mix(max(x, 0), x, greaterThan(magnitudes, uvec4(INFINITE)));
}

#endif
