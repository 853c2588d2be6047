#version 460
// labelled_rows: the numbers of the rows whose label is not negative, in order, and their count;
// what lies behind them in `rows` is not written. And for each of PARTS parts of PART tokens, every
// row's label counted from the first token of the part. With CHUNKED the list is treated in CHUNKS chunks
// of PLACES rows, each of which finds the count and its own first place. One workgroup.
//
// Reference: op linear_cross_entropy, which skips all other rows.
// Bindings:
//   0 read  labels  i32[ROWS]
//   1 write rows    u32[ROWS]
#ifdef CHUNKED
//   2 write count   u32[CHUNKS,PITCH]
#else
//   2 write count   u32[1]
#endif
//   3 write targets i32[PARTS,PITCH]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint PARTS = 1;
layout(constant_id = 2) const uint PART = 1;
layout(constant_id = 3) const uint PITCH = 1;
#ifdef CHUNKED
layout(constant_id = 4) const uint CHUNKS = 1;
layout(constant_id = 5) const uint PLACES = 1;
#endif
const uint THREADS = 256;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer Labels { int labels[]; };
layout(binding = 1, std430) writeonly buffer Rows { uint rows[]; };
layout(binding = 2, std430) writeonly buffer Count { uint count[]; };
layout(binding = 3, std430) writeonly buffer Targets { int targets[]; };

shared uint ranks[THREADS];

// How many of the invocations up to this one have a one (Hillis and Steele, 1986).
uint inclusive_sum(uint one) {
  const uint thread = gl_LocalInvocationIndex;
  ranks[thread] = one;
  barrier();
  for (uint reach = 1; reach < THREADS; reach *= 2) {
    uint before = 0;
    if (thread >= reach) {
      before = ranks[thread - reach];
    }
    barrier();
    ranks[thread] += before;
    barrier();
  }
  return ranks[thread];
}

void main() {
  uint found = 0;
  for (uint begin = 0; begin < ROWS; begin += THREADS) {
    const uint row = begin + gl_LocalInvocationIndex;
    bool labelled = false;
    if (row < ROWS) {
      labelled = labels[row] >= 0;
      for (uint part = 0; part < PARTS; part++) {
        targets[part * PITCH + row] = labels[row] - int(part * PART);
      }
    }
    const uint rank = inclusive_sum(labelled ? 1 : 0);
    if (labelled) {
      rows[found + rank - 1] = row;
    }
    found += ranks[THREADS - 1];
    barrier();
  }
#ifdef CHUNKED
  for (uint chunk = gl_LocalInvocationIndex; chunk < CHUNKS; chunk += THREADS) {
    count[chunk * PITCH] = found;
    count[chunk * PITCH + 1] = chunk * PLACES;
  }
#else
  if (gl_LocalInvocationIndex == 0) {
    count[0] = found;
  }
#endif
}
