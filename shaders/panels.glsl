// Factors for matrix units in panels of 128 rows: 16 bytes of each row, then the next 16 of each. So threads
// side by side read what lies side by side, each of them of a row of its own.

const uint PANEL = 128;

// Where 16 bytes of a row are, in vectors of 16 bytes, if a row has so many.
uint place_in_panels(uint row, uint sixteenth, uint sixteenths) {
  return (row / PANEL * sixteenths + sixteenth) * PANEL + row % PANEL;
}

// Where the codes 4 quad to 4 quad + 3 of a row of activations are, in words: the words of half h of a
// group of ternary weights have the activations 32 q + 16 h and on, q = 0 to 3, and so have the panels.
uint place_of_codes(uint row, uint quad, uint sixteenths) {
  const uint sixteenth = quad / 32 * 8 + quad / 4 % 2 * 4 + quad / 8 % 4;
  return 4 * place_in_panels(row, sixteenth, sixteenths) + quad % 4;
}
