// Factors for matrix units in panels of 128 rows: 16 bytes of each row, then the next 16 of each. So threads
// side by side read what lies side by side, each of them of a row of its own.

const uint PANEL = 128;

// Where 16 bytes of a row are, in vectors of 16 bytes, if a row has so many.
uint place_in_panels(uint row, uint sixteenth, uint sixteenths) {
  return (row / PANEL * sixteenths + sixteenth) * PANEL + row % PANEL;
}
