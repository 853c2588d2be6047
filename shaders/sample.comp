#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// sample: the id of a token for each row of logits, one workgroup a row. At temperature 0 the best
// of the chunks' largest; else the largest of z / temperature + Gumbel noise among those that pass
// the filters top_k, top_p and reach.
//
// Nothing is sorted. The last logit that passes is found digit by digit from histograms over its
// bits: of counts for top_k, of probabilities for top_p. Probabilities are added as whole numbers
// of two words, so that the order of the additions does not matter.
//
// Reference: op sample.
// Bindings:
//   0 read  logits      f32[ROWS,VOCABULARY]
//   1 read  temperature f32[]
//   2 read  top_k       i32[]
//   3 read  top_p       f32[]
//   4 read  reach       f32[]
//   5 read  seed        u32[]
//   6 read  positions   i32[ROWS]
//   7 read  tops        f32[ROWS,CHUNKS]
//   8 read  ids         u32[ROWS,CHUNKS]
//   9 write chosen      i32[ROWS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint VOCABULARY = 1;
layout(constant_id = 2) const uint CHUNKS = 1;
layout(constant_id = 3) const uint DIGIT = 8;         // bits of a digit
layout(constant_id = 4) const uint WORD = 16;         // bits of a probability's words
const uint THREADS = 512;
layout(local_size_x = 512) in;
layout(binding = 0, std430) readonly buffer Logits { float logits[]; };
layout(binding = 1, std430) readonly buffer Temperature { float temperature[]; };
layout(binding = 2, std430) readonly buffer TopK { int top_k[]; };
layout(binding = 3, std430) readonly buffer TopP { float top_p[]; };
layout(binding = 4, std430) readonly buffer Reach { float reach[]; };
layout(binding = 5, std430) readonly buffer Seed { uint seed[]; };
layout(binding = 6, std430) readonly buffer Positions { int positions[]; };
layout(binding = 7, std430) readonly buffer Tops { float tops[]; };
layout(binding = 8, std430) readonly buffer Ids { uint ids[]; };
layout(binding = 9, std430) writeonly buffer Chosen { int chosen[]; };
#include "philox.glsl"
#include "sample_best.glsl"

const uint BATCH = 8;
const uint BINS = 1u << DIGIT;
const uint BINS_EACH = (BINS + THREADS - 1) / THREADS;

// What tokens weigh: (high, low) means high + low / 2^WORD.
shared uint highs[BINS];
shared uint lows[BINS];
shared uvec2 sums[THREADS];
shared uint found_bin;
shared uvec2 found_before;

// The last token that passes a filter: those with a larger key pass too, and of the `ties` with
// this key the `kept` that have the lowest ids.
struct Cut {
  uint key;
  uint ties;
  uint kept;
};

const float LEAST = 1e-20;

const uint COUNTS = 0, MASSES = 1, ORDER = 2;

float unit() {
  return float(1u << WORD);
}

uint row() {
  return gl_WorkGroupID.x;
}

// The logits of the tokens begin + THREADS i. What is past the last one is read as the last, so that
// no load waits for another.
float[BATCH] batch(uint begin) {
  float x[BATCH];
  [[unroll]] for (uint i = 0; i < BATCH; i++) {
    x[i] = logits[row() * VOCABULARY + min(begin + i * THREADS, VOCABULARY - 1)];
  }
  return x;
}

// A key that grows with the number; both zeros have the same.
uint key_of(float x) {
  const uint bits = x == 0 ? 0 : floatBitsToUint(x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

float number_of(uint key) {
  return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7FFFFFFFu : ~key);
}

// The probability of a logit beside that of the largest, as words.
uvec2 mass_of(float x, float top) {
  const float scaled = min(exp((x - top) / temperature[0]), 1.0) * unit();
  const float high = floor(scaled);
  return uvec2(uint(high), uint((scaled - high) * unit()));
}

float as_float(uvec2 weight) {
  return float(weight.x) + float(weight.y) / unit();
}

void add_weight(uint bin, uvec2 weight) {
  if (weight.x > 0) {
    atomicAdd(highs[bin], weight.x);
  }
  if (weight.y > 0) {
    atomicAdd(lows[bin], weight.y);
  }
}

// Fills the histogram of the digit from bit `low` to bit `high` of keys that begin like `prefix`.
//
// COUNTS: the keys of all logits. MASSES: those of logits that pass `cut`, by probability. ORDER:
// of the logits that are at `cut`, the complement of the id.
void fill_bins(uint kind, Cut cut, float top, uint prefix, uint low, uint high) {
  for (uint bin = gl_LocalInvocationIndex; bin < BINS; bin += THREADS) {
    highs[bin] = 0;
    lows[bin] = 0;
  }
  barrier();
  const uint mask = (1u << (high - low)) - 1;
  for (uint begin = gl_LocalInvocationIndex; begin < VOCABULARY; begin += BATCH * THREADS) {
    const float x[BATCH] = batch(begin);
    [[unroll]] for (uint i = 0; i < BATCH; i++) {
      const uint id = begin + i * THREADS;
      const uint own = key_of(x[i]);
      const uint key = kind == ORDER ? ~id : own;
      const bool fits = high == 32 || key >> (high & 31) == prefix >> (high & 31);
      const bool wanted =
          kind == COUNTS || (kind == MASSES && own > cut.key) || (kind == ORDER && own == cut.key);
      if (id < VOCABULARY && fits && wanted) {
        add_weight(key >> low & mask, kind == MASSES ? mass_of(x[i], top) : uvec2(1, 0));
      }
    }
  }
  const bool has_cut = high == 32 || cut.key >> (high & 31) == prefix >> (high & 31);
  if (kind == MASSES && has_cut && cut.kept > 0 && gl_LocalInvocationIndex == 0) {
    add_weight(cut.key >> low & mask, cut.kept * mass_of(number_of(cut.key), top));
  }
  barrier();
}

// For each invocation, what the bins above its own weigh together; for all, what all weigh.
uvec2 scan_bins(out uvec2 total) {
  const uint thread = gl_LocalInvocationIndex;
  uvec2 own = uvec2(0);
  for (uint bin = thread * BINS_EACH; bin < min((thread + 1) * BINS_EACH, BINS); bin++) {
    own += uvec2(highs[bin], lows[bin]);
  }
  sums[thread] = own;
  barrier();
  for (uint reach = 1; reach < THREADS; reach *= 2) {
    uvec2 above = uvec2(0);
    if (thread + reach < THREADS) {
      above = sums[thread + reach];
    }
    barrier();
    sums[thread] += above;
    barrier();
  }
  total = sums[0];
  return sums[thread] - own;
}

// Finds the bin where the weight reaches the target, added up to `base` from the highest bin down, or
// else the lowest that weighs anything, and what all before it weighs. `above` is what `scan_bins`
// gave.
void find_bin(uvec2 base, uvec2 above, float target) {
  const uint last = (gl_LocalInvocationIndex + 1) * BINS_EACH - 1;
  if (gl_LocalInvocationIndex == 0) {
    found_bin = BINS;
  }
  barrier();
  uvec2 before[BINS_EACH];
  before[0] = base + above;
  for (uint i = 0; i < BINS_EACH; i++) {
    uvec2 weight = uvec2(0);
    if (last - i < BINS) {
      weight = uvec2(highs[last - i], lows[last - i]);
    }
    if (weight != uvec2(0) && as_float(before[i]) < target) {
      atomicMin(found_bin, last - i);
    }
    if (i + 1 < BINS_EACH) {
      before[i + 1] = before[i] + weight;
    }
  }
  barrier();
  for (uint i = 0; i < BINS_EACH; i++) {
    if (last - i == found_bin) {
      found_before = before[i];
    }
  }
  barrier();
}

// The last token of those that weigh `target` together, the highest keys first; of MASSES, `target`
// is a part of all. Kinds as in `fill_bins`.
Cut select(uint kind, Cut cut, float top, float target) {
  uint prefix = 0;
  uvec2 before = uvec2(0), weight = uvec2(0);
  uint low;
  for (uint high = 32; high > 0; high = low) {
    low = high - min(high, DIGIT);
    fill_bins(kind, cut, top, prefix, low, high);
    uvec2 total;
    const uvec2 above = scan_bins(total);
    if (kind == MASSES && high == 32) {
      target = max(target * as_float(total), LEAST);
    }
    find_bin(before, above, target);
    prefix |= found_bin << low;
    before = found_before;
    weight = uvec2(highs[found_bin], lows[found_bin]);
    barrier();
  }
  if (kind != MASSES) {
    return Cut(prefix, weight.x, uint(target) - before.x);
  }
  const float one = max(as_float(mass_of(number_of(prefix), top)), LEAST);
  const uint ties = uint(as_float(weight) / one + 0.5);
  const float kept = ceil((target - as_float(before)) / one);
  return Cut(prefix, prefix == cut.key ? cut.ties : ties, uint(clamp(kept, 1.0, float(ties))));
}

// The best of the tokens that pass all filters.
Best draw(float top) {
  Cut cut = Cut(0, 0, 0);
  if (top_k[0] > 0 && top_k[0] < int(VOCABULARY)) {
    cut = select(COUNTS, cut, top, float(top_k[0]));
  }
  if (top_p[0] < 1.0) {
    cut = select(MASSES, cut, top, top_p[0]);
  }
  uint last_id = NOBODY;
  if (cut.kept < cut.ties) {
    last_id = ~select(ORDER, cut, top, float(cut.kept)).key;
  }
  Best best = Best(0, NOBODY);
  for (uint begin = gl_LocalInvocationIndex; begin < VOCABULARY; begin += BATCH * THREADS) {
    const float x[BATCH] = batch(begin);
    [[unroll]] for (uint i = 0; i < BATCH; i++) {
      const uint id = begin + i * THREADS;
      const uint key = key_of(x[i]);
      const bool near = reach[0] < 0 || !(top - x[i] > reach[0]);
      if (id < VOCABULARY && near && (key > cut.key || (key == cut.key && id <= last_id))) {
        const uint word = philox(uvec4(id, uint(positions[row()]), 0, 0), seed[0]).x;
        const float noise = -log(negative_log(unit_interval(word)));
        best = better(best, Best(x[i] / temperature[0] + noise, id));
      }
    }
  }
  return workgroup_best(best);
}

void main() {
  Best best = Best(0, NOBODY);
  for (uint chunk = gl_LocalInvocationIndex; chunk < CHUNKS; chunk += THREADS) {
    const uint i = row() * CHUNKS + chunk;
    best = better(best, Best(tops[i], ids[i]));
  }
  best = workgroup_best(best);
  if (temperature[0] > 0) {
    best = draw(best.number);
  }
  if (gl_LocalInvocationIndex == 0) {
    chosen[row()] = int(best.id);
  }
}
