#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
// attention_few: attention of one query over few keys: for span s of SPAN keys, o = softmax(SCALE q k^T)
// v over those of its keys that lie in first .. last, and lse, the log of the sum of the exponentials;
// zeros and -1e30 where the span has no such key. One workgroup for a span and a head. With AHEAD also
// parts of narrow products with the norm of o (ahead.glsl).
//
// Reference: op attention, with its keys cut into spans. WIDTH is a multiple of 4.
// Bindings:
//   0 read  q     f32[1,HEADS,WIDTH]
//   1 read  k     f32[KEYS,KV_HEADS,WIDTH]
//   2 read  v     f32[KEYS,KV_HEADS,WIDTH]
//   3 read  first i32[1]
//   4 read  last  i32[1]
//   5 write o     f32[1,SPANS,HEADS,WIDTH]
//   6 write lse   f32[1,SPANS,HEADS]
#ifdef AHEAD
//   n read  ahead_norm  f32[AHEAD_COLUMNS]
//   n read  a0          f32[AHEAD_RANK,AHEAD_COLUMNS]
//   n write parts_ahead f32[GROUPS,STACK]
#endif
layout(constant_id = 0) const uint KEYS = 1;
layout(constant_id = 1) const uint HEADS = 1;
layout(constant_id = 2) const uint KV_HEADS = 1;
layout(constant_id = 3) const uint WIDTH = 4;
layout(constant_id = 4) const float SCALE = 1.0;
layout(constant_id = 5) const uint WORKGROUP = 128;
layout(constant_id = 6) const uint SUBGROUP_SIZE = 32;
layout(constant_id = 7) const uint SPANS = 1;
layout(constant_id = 8) const uint SPAN = 1;
#ifdef AHEAD
layout(constant_id = n) const uint AHEAD_COLUMNS = 4;
layout(constant_id = n) const uint AHEAD_RANK = 1;
layout(constant_id = n) const uint GROUPS = 1;
layout(constant_id = n) const uint STACK = 1;
#endif
layout(local_size_x_id = 5) in;
layout(binding = 0, std430) readonly buffer Q4 { vec4 q4[]; };
layout(binding = 1, std430) readonly buffer K4 { vec4 k4[]; };
layout(binding = 2, std430) readonly buffer V4 { vec4 v4[]; };
layout(binding = 3, std430) readonly buffer First { int first[]; };
layout(binding = 4, std430) readonly buffer Last { int last[]; };
layout(binding = 5, std430) writeonly buffer O { float o[]; };
layout(binding = 6, std430) writeonly buffer Lse { float lse[]; };

const uint QUADS = WIDTH / 4;
const uint PARTS = 4;  // invocations beside each other that share a key's dot product
const uint ABREAST = WORKGROUP / PARTS;
const uint ROUNDS = (SPAN + ABREAST - 1) / ABREAST;
const uint EACH = (QUADS + PARTS - 1) / PARTS;
const uint SLOTS = WORKGROUP / QUADS;  // keys whose values are mixed at a time
const uint STEPS = (SPAN + SLOTS - 1) / SLOTS;
const uint AHEAD_STEPS = STEPS < 8 ? STEPS : 8;  // of them asked for with the keys
const uint SUBGROUPS = WORKGROUP / SUBGROUP_SIZE;
const float HIDDEN = -1e30;

shared float tops[SUBGROUPS];
shared float totals[SUBGROUPS];
shared float probabilities[ROUNDS * ABREAST > STEPS * SLOTS ? ROUNDS * ABREAST : STEPS * SLOTS];
shared vec4 vectors[WORKGROUP];

uint thread = gl_LocalInvocationIndex;
uint head = gl_WorkGroupID.x;
uint span = gl_WorkGroupID.y;
uint place = span * HEADS + head;  // in the results
uint kv_head = head / (HEADS / KV_HEADS);

#ifdef AHEAD
#define MADE WIDTH
#include "matrix.glsl"
MATRIX_F32(a0, AT_a0, AHEAD_RANK, AHEAD_COLUMNS)
vec4 load_any_a(uint row, uint column) {
  return load_a0(row, column);
}
#include "ahead.glsl"
#endif

// What is past the last key is read as the last, so that no load waits.
uint place_of(uint low, uint count, uint key) {
  return (low + min(key, count - 1)) * KV_HEADS + kv_head;
}

vec4 value_at(uint low, uint count, uint step) {
  return v4[place_of(low, count, step * SLOTS + thread / QUADS) * QUADS + thread % QUADS];
}

void write(uint column, float x) {
  o[place * WIDTH + column] = x;
#ifdef AHEAD
  made[column] = x;
#endif
}

void attend(uint low, uint count) {
  const uint part = thread % PARTS;
  float scores[ROUNDS];
  vec4 queries[EACH], values[AHEAD_STEPS];
  [[unroll]] for (uint i = 0; i < EACH; i++) {
    const uint column = min(part + PARTS * i, QUADS - 1);
    queries[i] = q4[head * QUADS + column];
  }
  [[unroll]] for (uint round = 0; round < ROUNDS; round++) {
    scores[round] = HIDDEN;
    const uint key = round * ABREAST + thread / PARTS;
    if (round * ABREAST < count) {
      vec4 keys[EACH];
      [[unroll]] for (uint i = 0; i < EACH; i++) {
        const uint column = min(part + PARTS * i, QUADS - 1);
        keys[i] = k4[place_of(low, count, key) * QUADS + column];
      }
      if (round == 0) {
        [[unroll]] for (uint step = 0; step < AHEAD_STEPS; step++) {
          values[step] = value_at(low, count, step);
        }
      }
      float sum = 0;
      [[unroll]] for (uint i = 0; i < EACH; i++) {
        if (QUADS % PARTS == 0 || part + PARTS * i < QUADS) {
          sum += dot(queries[i], keys[i]);
        }
      }
      sum += subgroupShuffleXor(sum, 1);
      sum += subgroupShuffleXor(sum, 2);
      scores[round] = key < count ? SCALE * sum : HIDDEN;
    }
  }
  float top = HIDDEN;
  [[unroll]] for (uint round = 0; round < ROUNDS; round++) {
    top = max(top, scores[round]);
  }
  top = subgroupMax(top);
  if (subgroupElect()) {
    tops[gl_SubgroupID] = top;
  }
  barrier();
  for (uint i = 0; i < SUBGROUPS; i++) {
    top = max(top, tops[i]);
  }
  float total = 0;
  [[unroll]] for (uint round = 0; round < ROUNDS; round++) {
    const uint key = round * ABREAST + thread / PARTS;
    if (part == 0) {
      const float p = key < count ? exp(scores[round] - top) : 0.0;
      probabilities[key] = p;
      total += p;
    }
  }
  total = subgroupAdd(total);
  if (subgroupElect()) {
    totals[gl_SubgroupID] = total;
  }
  barrier();
  total = 0;
  for (uint i = 0; i < SUBGROUPS; i++) {
    total += totals[i];
  }
  vec4 mixed = vec4(0);
  [[unroll]] for (uint step = 0; step < STEPS; step++) {
    const uint key = step * SLOTS + thread / QUADS;
    if (step * SLOTS < count) {
      const vec4 x = step < AHEAD_STEPS ? values[step] : value_at(low, count, step);
      mixed += (key < count ? probabilities[key] : 0.0) * x;
    }
  }
  vectors[thread] = mixed;
  barrier();
  for (uint i = thread; i < WIDTH; i += WORKGROUP) {
    float sum = 0;
    for (uint slot = 0; slot < SLOTS; slot++) {
      sum += vectors[slot * QUADS + i / 4][i % 4];
    }
    write(i, sum / total);
  }
  if (thread == 0) {
    lse[place] = top + log(total);
  }
}

void main() {
#ifdef AHEAD
  ask_for_a(head * WIDTH);
#endif
  const uint low = uint(max(first[0], int(span * SPAN)));
  const int high = min(min(last[0], int(KEYS) - 1), int(span * SPAN + SPAN) - 1);
  if (high < int(low)) {
    for (uint i = thread; i < WIDTH; i += WORKGROUP) {
      write(i, 0);
    }
    if (thread == 0) {
      lse[place] = HIDDEN;
    }
  } else {
    attend(low, uint(high) - low + 1);
  }
#ifdef AHEAD
  write_parts(place);
#endif
}
