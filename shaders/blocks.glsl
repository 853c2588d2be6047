// Factors for matrix units in blocks: eight rows of 16 bytes side by side, so that eight threads read
// 128 bytes together, and each of them a row of its own.

// Where 16 bytes of a row are, in vectors of 16 bytes, if a row has so many.
uint place_in_blocks(uint row, uint sixteenth, uint sixteenths) {
  return (row / 8 * sixteenths + sixteenth) * 8 + row % 8;
}
