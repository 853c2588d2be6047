// int8 codes of a row from its largest magnitude: code = clamp(roundEven(x s), -128, 127) with
// s = 127 / max(absmax, 1e-5).
#include "magnitude.glsl"

// 127 / x as IEEE 754 rounds it; GLSL's own division may be 2.5 ulp off, and one ulp changes codes. It
// gives a quotient of the significands that is off by a few, and the rest says by how many. x is at
// least 1e-5, so that all numbers are normal.
float scale_for(float x) {
  if (magnitude(x) >= INFINITE) {
    return 127 / x;
  }
  const uint divisor = floatBitsToUint(x) & 0x7fffff | 0x800000;
  int exponent = 127 + 6 - int(floatBitsToUint(x) >> 23) + 127;
  uint dividend = 127u << 17;
  if (dividend < divisor) {
    dividend *= 2;
    exponent--;
  }
  uint quotient = uint(float(dividend) / float(divisor) * 8388608.0);
  int rest = int((dividend << 23) - quotient * divisor);  // which is small: the rest are lost bits
  for (; rest < 0; rest += int(divisor)) {
    quotient--;
  }
  for (; rest >= int(divisor); rest -= int(divisor)) {
    quotient++;
  }
  const uint twice = 2 * uint(rest);
  const bool up = twice > divisor || twice == divisor && (quotient & 1) == 1;
  return uintBitsToFloat((uint(exponent) << 23) + (quotient & 0x7fffff) + uint(up));
}

// The largest magnitude of four elements, as a whole number.
uint largest(vec4 x) {
  return max(max(magnitude(x.x), magnitude(x.y)), max(magnitude(x.z), magnitude(x.w)));
}

// The codes of four elements, which are already multiplied by the scale.
uint pack_codes(vec4 scaled) {
  const uvec4 code = uvec4(ivec4(clamp(roundEven(scaled), -128, 127))) & 0xff;
  return code.x | code.y << 8 | code.z << 16 | code.w << 24;
}
