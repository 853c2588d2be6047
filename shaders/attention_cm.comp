#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_clustered : require
#extension GL_KHR_shader_subgroup_vote : require
// attention_cm: what attention computes, on matrix units: o = softmax(SCALE q k^T) v over the keys
// first[n] .. last[n], and lse, the log of the sum of the exponentials. A workgroup has a tile of
// queries of all heads that share keys, a subgroup 16 of them.
//
// Reference: op attention; Dao (2023). WIDTH is a multiple of 32, at most 128. Where q, k or v is beyond
// the range of f16, 65,504, results are NaN.
// Bindings:
//   0 read  q     f32[ROWS,HEADS,WIDTH]
//   1 read  k     f32[KEYS,KV_HEADS,WIDTH]
//   2 read  v     f32[KEYS,KV_HEADS,WIDTH]
//   3 read  first i32[ROWS]
//   4 read  last  i32[ROWS]
//   5 write o     f32[ROWS,HEADS,WIDTH]
//   6 write lse   f32[ROWS,HEADS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint KEYS = 1;
layout(constant_id = 2) const uint HEADS = 1;
layout(constant_id = 3) const uint KV_HEADS = 1;
layout(constant_id = 4) const uint WIDTH = 32;
layout(constant_id = 5) const float SCALE = 1.0;
layout(constant_id = 6) const uint SUBGROUP_SIZE = 32;
layout(constant_id = 7) const uint TILE = 16;  // 16 or 32
layout(local_size_x = 128) in;
layout(binding = 0, std430) readonly buffer Q4 { vec4 q4[]; };
layout(binding = 1, std430) readonly buffer K4 { vec4 k4[]; };
layout(binding = 2, std430) readonly buffer V4 { vec4 v4[]; };
layout(binding = 3, std430) readonly buffer First { int first[]; };
layout(binding = 4, std430) readonly buffer Last { int last[]; };
layout(binding = 5, std430) writeonly buffer O4 { vec4 o4[]; };
layout(binding = 6, std430) writeonly buffer Lse { float lse[]; };
const uint SHARE = HEADS / KV_HEADS;
const uint WORKGROUP = 128;
const uint OWN = WORKGROUP / 2;
#include "attention_units.glsl"

const uint QUADS = TILE / 8;  // four scores each, of a lane
const float HIDDEN = -1e30;
const float SLACK = 8;  // by how much a score may be above what exponentials are taken relative to

shared uvec4 scores[OWN * PITCH_SCORES];  // and what else a subgroup's lines pass through
shared float inverses[OWN];
shared int low;
shared int high;

uint first_head() {
  return gl_WorkGroupID.y * SHARE;
}

Eight line_at(uint line, uint part) {
  if (line >= LINES) {
    return Eight(vec4(0), vec4(0), 1);
  }
  const uint at = place_of(line) * (WIDTH / 4) + 2 * part;
  return Eight(q4[at], q4[at + 1], 1);
}

void fetch_lines(uint begin) {
  [[unroll]] for (uint i = 0; i < LOADS; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    next[i] = line_at(begin + item / EIGHTS, item % EIGHTS);
    next[LOADS + i] = line_at(begin + TILE + item / EIGHTS, item % EIGHTS);
  }
}

// Past the last key that a query sees lies, in a cache, what nobody has written yet: it may be NaN.
void fetch_keys(int begin, int end) {
  [[unroll]] for (uint i = 0; i < LOADS; i++) {
    const uint item = gl_LocalInvocationIndex + i * WORKGROUP;
    const int key = begin + int(item / EIGHTS);
    next[i] = next[LOADS + i] = Eight(vec4(0), vec4(0), 1);
    if (key <= end) {
      const uint at = (uint(key) * KV_HEADS + gl_WorkGroupID.y) * (WIDTH / 4) + item % EIGHTS * 2;
      next[i] = Eight(k4[at], k4[at + 1], 1);
      next[LOADS + i] = Eight(v4[at], v4[at + 1], 1);
    }
  }
}

void main() {
  // The last tiles see the most keys, so they start first.
  const uint begin = (gl_NumWorkGroups.x - 1 - gl_WorkGroupID.x) * OWN;
  const uint strip = gl_SubgroupID * UNIT;  // the subgroup's lines
  const uint base = strip * PITCH_SCORES;
  const uint lane = gl_SubgroupInvocationID;
  // Two lanes have the scores of a line, half of them each.
  const uint line = begin + strip + lane / 2;
  const uint place = base + lane / 2 * PITCH_SCORES;
  int from = int(KEYS), to = -1;
  if (line < LINES) {
    from = max(first[line / SHARE], 0);
    to = min(last[line / SHARE], int(KEYS) - 1);
  }
  if (gl_LocalInvocationIndex == 0) {
    low = int(KEYS);
    high = -1;
  }
  barrier();
  const int strip_low = subgroupMin(from), strip_high = subgroupMax(to);
  if (subgroupElect()) {
    atomicMin(low, strip_low);
    atomicMax(high, strip_high);
  }
  MATRIX(float16_t, A) own[2 * STEPS];
  [[unroll]] for (uint some = 0; some < OWN; some += 2 * TILE) {
    fetch_lines(begin + some);
    barrier();
    stage(0, 0);
    stage(LOADS, 2);
    barrier();
    if (strip / (2 * TILE) * 2 * TILE == some) {
      [[unroll]] for (uint k = 0; k < STEPS; k++) {
        const uint at = (strip - some) / TILE * 2 * AREA + strip % TILE * PITCH + 2 * k;
        coopMatLoad(own[k], tiles, at, ROWS_APART(PITCH));
        coopMatLoad(own[STEPS + k], tiles, at + AREA, ROWS_APART(PITCH));
      }
    }
  }
  const int end = high;
  MATRIX(float, Accumulator) sums[STEPS];
  [[unroll]] for (uint u = 0; u < STEPS; u++) {
    sums[u] = MATRIX(float, Accumulator)(0);
  }
  float top = HIDDEN, total = 0;
  fetch_keys(low, end);
  for (int tile = low; tile <= end; tile += int(TILE)) {
    barrier();
    stage(0, 0);
    stage(LOADS, 2);
    barrier();
    fetch_keys(tile + int(TILE), end);
    if (tile > strip_high || tile + int(TILE) <= strip_low) {
      continue;
    }
    DOTS(own, 0, base)
    subgroupBarrier();
    vec4 s[QUADS];
    float highest = HIDDEN;
    [[unroll]] for (uint i = 0; i < QUADS; i++) {
      s[i] = SCALE * uintBitsToFloat(scores[place + lane % 2 * QUADS + i]);
      [[unroll]] for (uint j = 0; j < 4; j++) {
        const int key = tile + int(4 * (lane % 2 * QUADS + i) + j);
        s[i][j] = key >= from && key <= to ? s[i][j] : HIDDEN;
        highest = max(highest, s[i][j]);
      }
    }
    highest = subgroupClusteredMax(highest, 2);
    subgroupBarrier();
    if (subgroupAny(highest > top + SLACK)) {
      // Only matrix units know who has which sum: each line's factor goes to them as a row.
      highest = max(highest, top);
      const float shrink = exp(top - highest);
      top = highest;
      total *= shrink;
      scores[place + lane % 2 * 2] = scores[place + lane % 2 * 2 + 1] = floatBitsToUint(vec4(shrink));
      subgroupBarrier();
      MATRIX(float, Accumulator) factors;
      coopMatLoad(factors, scores, base, ROWS_APART(PITCH_SCORES));
      [[unroll]] for (uint u = 0; u < STEPS; u++) {
        sums[u] = sums[u] * factors;
      }
      subgroupBarrier();
    }
    uvec2 upper[QUADS], lower[QUADS];
    [[unroll]] for (uint i = 0; i < QUADS; i++) {
      vec4 p = exp(s[i] - top);
      [[unroll]] for (uint j = 0; j < 4; j++) {
        p[j] = s[i][j] > HIDDEN ? p[j] : 0.0;
      }
      total += (p.x + p.y) + (p.z + p.w);
      const vec4 high = rounded(p);
      upper[i] = to_halves(high);
      lower[i] = to_halves(p - high);
    }
    [[unroll]] for (uint i = 0; i < QUADS; i += 2) {
      const uint at = place + (lane % 2 * QUADS + i) / 2;
      scores[at] = uvec4(upper[i], upper[i + 1]);
      scores[at + TILE / 8] = uvec4(lower[i], lower[i + 1]);
    }
    subgroupBarrier();
    [[unroll]] for (uint k = 0; k < TILE / UNIT; k++) {
      MATRIX(float16_t, A) weights[2];
      coopMatLoad(weights[0], scores, base + 2 * k, ROWS_APART(PITCH_SCORES));
      coopMatLoad(weights[1], scores, base + TILE / 8 + 2 * k, ROWS_APART(PITCH_SCORES));
      [[unroll]] for (uint i = 0; i < 3 * STEPS; i++) {
        MATRIX(float16_t, B) factor;
        const uint turn = i / STEPS, u = i % STEPS;  // high by high, low by high, high by low
        const uint at = (2 + turn / 2) * AREA + k * UNIT * PITCH + 2 * u;
        coopMatLoad(factor, tiles, at, ROWS_APART(PITCH));
        sums[u] = coopMatMulAdd(weights[turn % 2], factor, sums[u]);
      }
    }
    subgroupBarrier();
  }
  total = subgroupClusteredAdd(total, 2);
  if (lane % 2 == 0) {
    inverses[strip + lane / 2] = 1 / total;
    if (line < LINES) {
      lse[place_of(line)] = top + log(total);
    }
  }
  const uint across = TILE / 4;  // lanes that write side by side
  [[unroll]] for (uint u = 0; u < STEPS; u += TILE / UNIT) {
    subgroupBarrier();
    [[unroll]] for (uint i = 0; i < TILE / UNIT; i++) {
      coopMatStore(sums[u + i], scores, base + i * UNIT / 4, ROWS_APART(PITCH_SCORES));
    }
    subgroupBarrier();
    [[unroll]] for (uint i = 0; i < UNIT * across / SUBGROUP_SIZE; i++) {
      const uint row = i * SUBGROUP_SIZE / across + lane / across;
      const uint n = begin + strip + row;
      if (n < LINES) {
        const vec4 quad = uintBitsToFloat(scores[base + row * PITCH_SCORES + lane % across]);
        o4[place_of(n) * (WIDTH / 4) + u * UNIT / 4 + lane % across] = inverses[strip + row] * quad;
      }
    }
  }
}
