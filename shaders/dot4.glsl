// int dot4(a, b): the sum of products of four signed bytes each.

int dot4(int a, int b) {
  return bitfieldExtract(a, 0, 8) * bitfieldExtract(b, 0, 8) +
         bitfieldExtract(a, 8, 8) * bitfieldExtract(b, 8, 8) +
         bitfieldExtract(a, 16, 8) * bitfieldExtract(b, 16, 8) +
         bitfieldExtract(a, 24, 8) * bitfieldExtract(b, 24, 8);
}
