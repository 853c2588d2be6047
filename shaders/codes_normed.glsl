// The same as codes.glsl of a plain x of one row, whose norm every workgroup takes and quantizes for
// itself, as ops rms_norm and quantize do: `ask_for_x`, then `prepare_x`. The codes are kept in shared
// memory. The includer has WORKGROUP and EPS besides, and GL_KHR_shader_subgroup_arithmetic.
//
// With MERGED x is what attention_few gave of SPANS spans of keys, for HEADS heads, with their lse;
// `merge_x` comes in between.

#extension GL_EXT_control_flow_attributes : require
#include "absmax.glsl"
#include "reduce.glsl"

const uint STRIPS = INNER / 64;
const uint WORDS = INNER / 4;
const uint CHUNKS = (WORDS + WORKGROUP - 1) / WORKGROUP;

layout(binding = 0, std430) readonly buffer X4 { vec4 x4[]; };
layout(binding = 1, std430) readonly buffer Norm4 { vec4 norm4[]; };

shared ivec4 x_quads[INNER / 16];  // those of a k side by side, strip by strip
shared int subgroup_totals[WORKGROUP];
float x_scale;
int x_total = 0;  // of the codes
float x_inverse_rms;
vec4 x_kept[CHUNKS], norm_kept[CHUNKS];
#ifdef MERGED
layout(binding = AT_lse, std430) readonly buffer Lse { float lse[]; };
shared float span_weights[SPANS * HEADS];
vec4 spans_kept[SPANS][CHUNKS];
float lse_kept[SPANS];
#endif

uint word_of_chunk(uint c) {
  return c * WORKGROUP + gl_LocalInvocationIndex;
}

void ask_for_x() {
  [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
    const uint i = min(word_of_chunk(c), WORDS - 1);
#ifdef MERGED
    [[unroll]] for (uint span = 0; span < SPANS; span++) {
      spans_kept[span][c] = x4[span * WORDS + i];
    }
#else
    x_kept[c] = x4[i];
#endif
    norm_kept[c] = norm4[i];
  }
#ifdef MERGED
  [[unroll]] for (uint span = 0; span < SPANS; span++) {
    lse_kept[span] = lse[span * HEADS + gl_LocalInvocationIndex % HEADS];
  }
#endif
}

#ifdef MERGED
// One softmax from those over spans, as attention_merge does.
void merge_x() {
  float top = lse_kept[0];
  [[unroll]] for (uint span = 1; span < SPANS; span++) {
    top = max(top, lse_kept[span]);
  }
  float total = 0;
  [[unroll]] for (uint span = 0; span < SPANS; span++) {
    lse_kept[span] = exp(lse_kept[span] - top);
    total += lse_kept[span];
  }
  if (gl_LocalInvocationIndex < HEADS) {
    [[unroll]] for (uint span = 0; span < SPANS; span++) {
      span_weights[span * HEADS + gl_LocalInvocationIndex] = lse_kept[span] / total;
    }
  }
  barrier();
  [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
    const uint head = min(word_of_chunk(c), WORDS - 1) / (WORDS / HEADS);
    x_kept[c] = vec4(0);
    [[unroll]] for (uint span = 0; span < SPANS; span++) {
      x_kept[c] += span_weights[span * HEADS + head] * spans_kept[span][c];
    }
  }
}
#endif

void put_word(uint word, int codes) {
  const uint quad = word / 4 % 8, strip = word / 32 * 2 + quad % 2, k = quad / 2;
  x_quads[k * STRIPS + strip][word % 4] = codes;
}

void prepare_x() {
  precise float squares = 0;
  [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
    if (word_of_chunk(c) < WORDS) {
      squares += dot(x_kept[c], x_kept[c]);
    }
  }
  precise const float mean = workgroup_sum(squares) / INNER;
  precise const float r = inversesqrt(mean + EPS);
  uint top = floatBitsToUint(1e-5);
  [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
    precise const vec4 normed = x_kept[c] * r * norm_kept[c];
    x_kept[c] = normed;
    top = max(top, largest(normed));
  }
  x_inverse_rms = r;
  x_scale = scale_for(uintBitsToFloat(workgroup_max(top)));
  int total = 0;
  [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
    if (word_of_chunk(c) < WORDS) {
      const int codes = int(pack_codes(x_kept[c] * x_scale));
      put_word(word_of_chunk(c), codes);
      total += dot4(0x01010101, codes);
    }
  }
  total = subgroupAdd(total);
  if (subgroupElect()) {
    subgroup_totals[gl_SubgroupID] = total;
  }
  barrier();
  for (uint i = 0; i < gl_NumSubgroups; i++) {
    x_total += subgroup_totals[i];
  }
}

ivec4 quad_of_x(uint row, uint strip, uint k) {
  return x_quads[k * STRIPS + strip];
}

float scale_of_x(uint row) {
  return x_scale;
}
