#version 460
// attention_merge: one softmax from those over spans of keys: lse = log(sum of exp(span_lse)) and
// o = sum of exp(span_lse - lse) span_o, one workgroup for a query and a head.
//
// Reference: op attention, from the results of attention_split.
// Bindings:
//   0 read  span_o   f32[ROWS,SPANS,HEADS,WIDTH]
//   1 read  span_lse f32[ROWS,SPANS,HEADS]
//   2 write o        f32[ROWS,HEADS,WIDTH]
//   3 write lse      f32[ROWS,HEADS]
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint HEADS = 1;
layout(constant_id = 2) const uint WIDTH = 1;
layout(constant_id = 3) const uint SPANS = 1;
const uint THREADS = 128;
layout(local_size_x = 128) in;
layout(binding = 0, std430) readonly buffer SpanO { float span_o[]; };
layout(binding = 1, std430) readonly buffer SpanLse { float span_lse[]; };
layout(binding = 2, std430) writeonly buffer O { float o[]; };
layout(binding = 3, std430) writeonly buffer Lse { float lse[]; };

shared float weights[SPANS];

void main() {
  const uint head = gl_WorkGroupID.x, row = gl_WorkGroupID.y;
  const uint begin = row * SPANS * HEADS + head;
  for (uint s = gl_LocalInvocationIndex; s < SPANS; s += THREADS) {
    weights[s] = span_lse[begin + s * HEADS];
  }
  barrier();
  float top = weights[0];
  for (uint s = 1; s < SPANS; s++) {
    top = max(top, weights[s]);
  }
  barrier();
  for (uint s = gl_LocalInvocationIndex; s < SPANS; s += THREADS) {
    weights[s] = exp(weights[s] - top);
  }
  barrier();
  float total = 0;
  for (uint s = 0; s < SPANS; s++) {
    total += weights[s];
  }
  for (uint i = gl_LocalInvocationIndex; i < WIDTH; i += THREADS) {
    float sum = 0;
    for (uint s = 0; s < SPANS; s++) {
      sum += weights[s] * span_o[(begin + s * HEADS) * WIDTH + i];
    }
    o[(row * HEADS + head) * WIDTH + i] = sum / total;
  }
  if (gl_LocalInvocationIndex == 0) {
    lse[row * HEADS + head] = top + log(total);
  }
}
