// Numbers and ternary codes as halves, two in a word.

uvec2 to_halves(vec4 x) {
  return uvec2(packHalf2x16(x.xy), packHalf2x16(x.zw));
}

// The nearest to x that f16 has, of its normal numbers. By bits, since NVIDIA's compiler takes what is
// narrowed and widened again for x itself.
vec4 rounded(vec4 x) {
  return uintBitsToFloat((floatBitsToUint(x) + 0x1000) & 0xFFFFE000);
}

// Codes 0 to 2 in the low bits of two 16-bit halves as f16: 0xbc00, 0 and 0x3c00.
uint codes_to_halves(uint codes) {
  const uint odd = ~codes & 0x00010001;
  return odd * 0x3c00 | (odd & ~(codes >> 1)) << 15;
}

// Four codes in the low bits of bytes as f16.
uvec2 weights_of(uint codes) {
  codes &= 0x03030303;
  const uint low = codes & 0xff | (codes & 0xff00) << 8;
  const uint high = codes >> 16 & 0xff | codes >> 8 & 0xff0000;
  return uvec2(codes_to_halves(low), codes_to_halves(high));
}
