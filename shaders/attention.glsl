// Tiles of attention scores, for attention.comp, attention_dq.comp and attention_dkv.comp.
//
// LANES x LANES invocations work on TILE x TILE scores. Invocation (x, y) has 4 x 4 of them, at
// the rows y + LANES r and the columns x + LANES c, and of an accumulator [TILE, WIDTH] the same
// rows and the groups of four columns x + LANES g. Operands pass through shared memory in slices,
// each row padded by one vec4 against bank conflicts.
//
// The including file declares ROWS, KEYS, HEADS, KV_HEADS, WIDTH, LANES and SCALE, and defines
// `fetch`.

const uint TILE = 4 * LANES;
const uint THREADS = LANES * LANES;
const uint WIDTH4 = (WIDTH + 3) / 4;
const uint GROUPS = (WIDTH4 + LANES - 1) / LANES;
const uint MOST_GROUPS = 4;
const float HIDDEN = -1e30;

const uint DEPTH4 = 4;
const uint DEPTH = 4 * DEPTH4;
const uint SLICE = TILE * (DEPTH4 + 1);
const uint SLICES = 2 * SLICE > DEPTH * WIDTH4 ? 2 * SLICE : DEPTH * WIDTH4;
shared vec4 slices[SLICES];
const uint MATRIX4 = LANES + 1;
shared vec4 matrix[TILE * MATRIX4];
shared int low;
shared int high;

struct Scores {
  float at[4][4];
};
struct Accumulator {
  vec4 at[4][MOST_GROUPS];
};

// The query head of this workgroup, and the one of keys and values that it reads.
uint head() {
  return gl_WorkGroupID.y;
}

uint kv_head() {
  return head() / (HEADS / KV_HEADS);
}

uint lane_x() {
  return gl_LocalInvocationIndex % LANES;
}

uint lane_y() {
  return gl_LocalInvocationIndex / LANES;
}

// Items 4 * column .. 4 * column + 3 of a row of an operand for this workgroup's head, zero outside.
vec4 fetch(uint operand, uint row, uint column);

// Dot products of TILE rows of one operand with TILE rows of another.
Scores dots(uint left, uint left_begin, uint right, uint right_begin) {
  Scores scores;
  [[unroll]] for (uint r = 0; r < 4; r++) {
    [[unroll]] for (uint c = 0; c < 4; c++) {
      scores.at[r][c] = 0;
    }
  }
  for (uint begin = 0; begin < WIDTH4; begin += DEPTH4) {
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < TILE * DEPTH4; i += THREADS) {
      const uint row = i / DEPTH4, column = i % DEPTH4;
      const uint at = row * (DEPTH4 + 1) + column;
      slices[at] = fetch(left, left_begin + row, begin + column);
      slices[SLICE + at] = fetch(right, right_begin + row, begin + column);
    }
    barrier();
    [[unroll]] for (uint d = 0; d < DEPTH4; d++) {
      vec4 x[4];
      [[unroll]] for (uint r = 0; r < 4; r++) {
        x[r] = slices[(lane_y() + LANES * r) * (DEPTH4 + 1) + d];
      }
      [[unroll]] for (uint c = 0; c < 4; c++) {
        const vec4 y = slices[SLICE + (lane_x() + LANES * c) * (DEPTH4 + 1) + d];
        [[unroll]] for (uint r = 0; r < 4; r++) {
          scores.at[r][c] += dot(x[r], y);
        }
      }
    }
  }
  return scores;
}

// Lays scores into `matrix`, for `accumulate`.
void keep(Scores scores) {
  barrier();
  [[unroll]] for (uint r = 0; r < 4; r++) {
    [[unroll]] for (uint c = 0; c < 4; c++) {
      const uint column = lane_x() + LANES * c;
      matrix[(lane_y() + LANES * r) * MATRIX4 + column / 4][column % 4] = scores.at[r][c];
    }
  }
}

Accumulator zeros() {
  Accumulator sums;
  [[unroll]] for (uint r = 0; r < 4; r++) {
    [[unroll]] for (uint g = 0; g < MOST_GROUPS; g++) {
      sums.at[r][g] = vec4(0);
    }
  }
  return sums;
}

// Adds `matrix` times TILE rows of an operand.
void accumulate(inout Accumulator sums, uint operand, uint operand_begin) {
  for (uint begin = 0; begin < TILE; begin += DEPTH) {
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < DEPTH * WIDTH4; i += THREADS) {
      slices[i] = fetch(operand, operand_begin + begin + i / WIDTH4, i % WIDTH4);
    }
    barrier();
    [[unroll]] for (uint d = 0; d < DEPTH4; d++) {
      vec4 x[4];
      [[unroll]] for (uint r = 0; r < 4; r++) {
        x[r] = matrix[(lane_y() + LANES * r) * MATRIX4 + begin / 4 + d];
      }
      [[unroll]] for (uint i = 0; i < 4; i++) {
        [[unroll]] for (uint g = 0; g < MOST_GROUPS; g++) {
          const uint column = lane_x() + LANES * g;
          if (g < GROUPS && (WIDTH4 % LANES == 0 || column < WIDTH4)) {
            const vec4 y = slices[(4 * d + i) * WIDTH4 + column];
            [[unroll]] for (uint r = 0; r < 4; r++) {
              sums.at[r][g] += x[r][i] * y;
            }
          }
        }
      }
    }
  }
}
