// Narrow products of which there are parts (ahead.glsl), added up by every workgroup that needs them:
// `ask_for_parts` early, then `add_parts`, then a barrier, and `lows` has FACTOR times the sums: RANK4
// quads for each of TERMS products of RANK columns. 1 / rms of the row is left to multiply.
//
// The includer has WORKGROUP, RANK, RANK4, TERMS, PART_COUNT, PART_STACK, FACTOR and the binding of
// parts. With MERGED a part is of a span of keys and a head, and weighs what these do.

const uint LOW_COLUMNS = TERMS * RANK;
const uint SLICES = WORKGROUP / LOW_COLUMNS;
const uint OF_SLICE = (PART_COUNT + SLICES - 1) / SLICES;
const uint SOME = OF_SLICE < 16 ? OF_SLICE : 16;
layout(binding = AT_parts, std430) readonly buffer Parts { float parts[]; };
shared float slices[WORKGROUP];
shared vec4 lows[TERMS * RANK4];
float part_kept[SOME];

// Every SLICES-th part of this thread's column: SOME of them, from `begin` on. The columns of the first
// term begin at `first`, of the second at `second`.
void ask_for_parts(uint first, uint second, uint begin) {
  const uint column = gl_LocalInvocationIndex % LOW_COLUMNS;
  const uint at = column < RANK ? first + column : second + column - RANK;
  [[unroll]] for (uint i = 0; i < SOME; i++) {
    part_kept[i] = parts[min(begin + i * SLICES, PART_COUNT - 1) * PART_STACK + at];
  }
}

// Add up the parts of the narrow products, of which the first are there.
void add_parts(uint first, uint second) {
  const uint thread = gl_LocalInvocationIndex, slice = thread / LOW_COLUMNS;
  float sum = 0;
  for (uint begin = slice; begin < PART_COUNT; begin += SOME * SLICES) {
    if (begin > slice) {
      ask_for_parts(first, second, begin);
    }
    [[unroll]] for (uint i = 0; i < SOME; i++) {
      const uint part = begin + i * SLICES;
      if (part < PART_COUNT) {
#ifdef MERGED
        sum += span_weights[part] * part_kept[i];
#else
        sum += part_kept[i];
#endif
      }
    }
  }
  slices[thread] = sum;
  barrier();
  if (thread < TERMS * RANK4 * 4) {
    const uint term = thread / (RANK4 * 4), k = thread % (RANK4 * 4);
    float total = 0;
    for (uint i = 0; k < RANK && i < SLICES; i++) {
      total += slices[i * LOW_COLUMNS + term * RANK + k];
    }
    lows[thread / 4][thread % 4] = FACTOR * total;
  }
}
