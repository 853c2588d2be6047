#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// attention_split: attention of few queries over spans of keys apart: for span s of SPAN keys,
// o = softmax(SCALE q k^T) v over those of its keys that lie in first[n] .. last[n], and lse, the
// log of the sum of the exponentials; zeros and -1e30 where the span has no such key. One workgroup
// for a span, a query and SHARE query heads that have the same keys.
//
// Reference: op attention, with its keys cut into spans.
// Bindings:
//   0 read  q     f32[ROWS,HEADS,WIDTH]
//   1 read  k     f32[KEYS,KV_HEADS,WIDTH]
//   2 read  v     f32[KEYS,KV_HEADS,WIDTH]
//   3 read  first i32[ROWS]
//   4 read  last  i32[ROWS]
//   5 write o     f32[ROWS,SPANS,HEADS,WIDTH]
//   6 write lse   f32[ROWS,SPANS,HEADS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint KEYS = 1;
layout(constant_id = 2) const uint HEADS = 1;
layout(constant_id = 3) const uint KV_HEADS = 1;
layout(constant_id = 4) const uint WIDTH = 1;
layout(constant_id = 5) const float SCALE = 1.0;
layout(constant_id = 6) const uint SPANS = 1;
layout(constant_id = 7) const uint SPAN = 1;
layout(constant_id = 8) const uint SHARE = 1;
layout(constant_id = 9) const uint LANES = 128;  // invocations for one head: 128 / SHARE or less
const uint THREADS = 128;
layout(local_size_x = 128) in;
layout(binding = 0, std430) readonly buffer Q { float q[]; };
layout(binding = 3, std430) readonly buffer First { int first[]; };
layout(binding = 4, std430) readonly buffer Last { int last[]; };
layout(binding = 5, std430) writeonly buffer O { float o[]; };
layout(binding = 6, std430) writeonly buffer Lse { float lse[]; };

#include "matrix.glsl"
MATRIX_F32(k, 1, KEYS * KV_HEADS, WIDTH)
MATRIX_F32(v, 2, KEYS * KV_HEADS, WIDTH)

const uint WIDTH4 = (WIDTH + 3) / 4;
const uint PARTS = 4;  // invocations that share a key's dot products
const uint ABREAST = THREADS / PARTS;
const uint ROUNDS = (SPAN + ABREAST - 1) / ABREAST;
const uint COLUMNS = (WIDTH4 + PARTS - 1) / PARTS;
const uint SLOTS = THREADS / WIDTH4;  // keys whose values are mixed at a time
const uint STEPS = (SPAN + SLOTS - 1) / SLOTS;
const float HIDDEN = -1e30;

shared vec4 queries[SHARE * WIDTH4];
shared float dots[SHARE * ROUNDS * THREADS];
shared float scores[SHARE * STEPS * SLOTS];
shared float numbers[THREADS];
shared vec4 vectors[THREADS];

uint thread = gl_LocalInvocationIndex;
uint span = gl_WorkGroupID.x;
uint head = gl_WorkGroupID.y * SHARE;
uint row = gl_WorkGroupID.z;
uint kv_head = head / (HEADS / KV_HEADS);

void load_queries() {
  for (uint i = thread; i < SHARE * WIDTH4 * 4; i += THREADS) {
    const uint h = i / (4 * WIDTH4), column = i % (4 * WIDTH4);
    float x = 0;
    if (column < WIDTH) {
      x = q[(row * HEADS + head + h) * WIDTH + column];
    }
    queries[i / 4][i % 4] = x;
  }
  barrier();
}

// Scores of `count` keys from `low`, of which there is at least one: ABREAST keys at a time, each by
// PARTS invocations. What is past the last key is read as the last, so that no load waits.
void score(uint low, uint count) {
  const uint part = thread % PARTS;
  [[unroll]] for (uint round = 0; round < ROUNDS; round++) {
    const uint key = low + min(round * ABREAST + thread / PARTS, count - 1);
    float sums[SHARE];
    [[unroll]] for (uint h = 0; h < SHARE; h++) {
      sums[h] = 0;
    }
    [[unroll]] for (uint i = 0; i < COLUMNS; i++) {
      const uint column = part + PARTS * i;
      if (WIDTH4 % PARTS == 0 || column < WIDTH4) {
        const vec4 x = load_k(key * KV_HEADS + kv_head, 4 * column);
        [[unroll]] for (uint h = 0; h < SHARE; h++) {
          sums[h] += dot(x, queries[h * WIDTH4 + column]);
        }
      }
    }
    [[unroll]] for (uint h = 0; h < SHARE; h++) {
      dots[(h * ROUNDS + round) * THREADS + thread] = sums[h];
    }
  }
  barrier();
  for (uint i = thread; i < SHARE * SPAN; i += THREADS) {
    const uint h = i / SPAN, key = i % SPAN;
    const uint at = h * ROUNDS * THREADS + key * PARTS;
    scores[h * STEPS * SLOTS + key] = SCALE * ((dots[at] + dots[at + 1]) + (dots[at + 2] + dots[at + 3]));
  }
  barrier();
}

// The largest number, or the sum, over the invocations of a head; LANES is a power of two.
float reduce(float x, bool largest) {
  numbers[thread] = x;
  barrier();
  for (uint reach = LANES / 2; reach > 0; reach /= 2) {
    if (thread % LANES < reach) {
      const float other = numbers[thread + reach];
      numbers[thread] = largest ? max(numbers[thread], other) : numbers[thread] + other;
    }
    barrier();
  }
  const float result = numbers[thread / LANES * LANES];
  barrier();
  return result;
}

// Turns scores into probabilities, zero past the last key, and writes lse.
void normalize(uint count) {
  const uint h = thread / LANES, lane = thread % LANES;
  const uint at = h * STEPS * SLOTS;
  const bool has_head = h < SHARE;
  float top = HIDDEN, total = 0;
  if (has_head) {
    for (uint i = lane; i < count; i += LANES) {
      top = max(top, scores[at + i]);
    }
  }
  top = reduce(top, true);
  if (has_head) {
    for (uint i = lane; i < STEPS * SLOTS; i += LANES) {
      const float p = i < count ? exp(scores[at + i] - top) : 0.0;
      scores[at + i] = p;
      total += p;
    }
  }
  total = reduce(total, false);
  if (has_head) {
    for (uint i = lane; i < count; i += LANES) {
      scores[at + i] /= total;
    }
    if (lane == 0) {
      lse[(row * SPANS + span) * HEADS + head + h] = top + log(total);
    }
  }
  barrier();
}

// Sums values weighted by probabilities: SLOTS keys at a time, each by WIDTH4 invocations.
void mix(uint low, uint count) {
  const uint slot = thread / WIDTH4, column = thread % WIDTH4;
  vec4 sums[SHARE];
  [[unroll]] for (uint h = 0; h < SHARE; h++) {
    sums[h] = vec4(0);
  }
  if (slot < SLOTS) {
    [[unroll]] for (uint step = 0; step < STEPS; step++) {
      const uint key = step * SLOTS + slot;
      const vec4 x = load_v((low + min(key, count - 1)) * KV_HEADS + kv_head, 4 * column);
      [[unroll]] for (uint h = 0; h < SHARE; h++) {
        sums[h] += scores[h * STEPS * SLOTS + key] * x;
      }
    }
  }
  [[unroll]] for (uint h = 0; h < SHARE; h++) {
    vectors[thread] = sums[h];
    barrier();
    for (uint i = thread; i < WIDTH; i += THREADS) {
      float sum = 0;
      for (uint s = 0; s < SLOTS; s++) {
        sum += vectors[s * WIDTH4 + i / 4][i % 4];
      }
      o[((row * SPANS + span) * HEADS + head + h) * WIDTH + i] = sum;
    }
    barrier();
  }
}

void write_nothing() {
  for (uint i = thread; i < SHARE * WIDTH; i += THREADS) {
    o[((row * SPANS + span) * HEADS + head) * WIDTH + i] = 0;
  }
  if (thread < SHARE) {
    lse[(row * SPANS + span) * HEADS + head + thread] = HIDDEN;
  }
}

void main() {
  const uint low = uint(max(first[row], int(span * SPAN)));
  const int high = min(min(last[row], int(KEYS) - 1), int(span * SPAN + SPAN) - 1);
  if (high < int(low)) {
    write_nothing();
    return;
  }
  const uint count = uint(high) - low + 1;
  load_queries();
  score(low, count);
  normalize(count);
  mix(low, count);
}
