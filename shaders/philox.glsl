// Philox4x32-10 (Salmon et al., 2011), bit for bit as graph/random.py has it, under a key of 32 bits.

uvec4 philox(uvec4 counter, uint key) {
  uvec2 keys = uvec2(key, 0);
  for (uint round = 0; round < 10; round++) {
    uvec2 high, low;
    umulExtended(uvec2(0xD2511F53u, 0xCD9E8D57u), counter.xz, high, low);
    counter = uvec4(high.y ^ counter.y ^ keys.x, low.y, high.x ^ counter.w ^ keys.y, low.x);
    keys += uvec2(0x9E3779B9u, 0xBB67AE85u);
  }
  return counter;
}

// A float in (0, 1) from the top 23 bits.
float unit_interval(uint word) {
  return (float(word >> 9) + 0.5) * 1.1920928955078125e-07;
}

// -log(u) for 0 < u < 1. Close to 1 a device's log has few right digits, so there it is
// -2 atanh((u - 1) / (u + 1)) by its series, exact to the last bits for u > 1/2.
float negative_log(float u) {
  if (u <= 0.5) {
    return -log(u);
  }
  const float s = (1.0 - u) / (1.0 + u);
  const float q = s * s;
  float sum = 1.0 / 15.0;
  sum = sum * q + 1.0 / 13.0;
  sum = sum * q + 1.0 / 11.0;
  sum = sum * q + 1.0 / 9.0;
  sum = sum * q + 1.0 / 7.0;
  sum = sum * q + 1.0 / 5.0;
  sum = sum * q + 1.0 / 3.0;
  return 2.0 * (s + s * q * sum);
}
