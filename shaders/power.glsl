// The power of two below a magnitude, or equal to it, at most 2^126 and at least 2^-126. The magnitude
// is given by its bits, in the order of which positive floats are, and whose top is the exponent.
float power_below(uint bits) {
  return uintBitsToFloat(clamp(bits >> 23, 1, 253) << 23);
}

// One over such a power, exactly.
float inverse_of(float power) {
  return uintBitsToFloat((254 << 23) - floatBitsToUint(power));
}
