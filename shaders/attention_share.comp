#version 460
// attention_share: dk and dv of shared keys, as the sums over the query heads that share them, or over
// parts of those.
//
// Reference: op attention_grad, its last results from those of attention_dkv.
// Bindings:
//   0 read  head_dk f32[KEYS,HEADS,WIDTH]
//   1 read  head_dv f32[KEYS,HEADS,WIDTH]
//   2 write dk      f32[KEYS,KV_HEADS,WIDTH]
//   3 write dv      f32[KEYS,KV_HEADS,WIDTH]
layout(constant_id = 0) const uint KEYS = 1;
layout(constant_id = 1) const uint HEADS = 1;
layout(constant_id = 2) const uint KV_HEADS = 1;
layout(constant_id = 3) const uint WIDTH = 1;
layout(local_size_x = 256) in;
layout(binding = 0, std430) readonly buffer HeadDk { float head_dk[]; };
layout(binding = 1, std430) readonly buffer HeadDv { float head_dv[]; };
layout(binding = 2, std430) writeonly buffer Dk { float dk[]; };
layout(binding = 3, std430) writeonly buffer Dv { float dv[]; };

const uint SHARE = HEADS / KV_HEADS;

void main() {
  const uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
  const uint i = group * gl_WorkGroupSize.x + gl_LocalInvocationIndex;
  if (i < KEYS * KV_HEADS * WIDTH) {
    const uint at = i / WIDTH * SHARE * WIDTH + i % WIDTH;
    float dk_sum = 0, dv_sum = 0;
    for (uint h = 0; h < SHARE; h++) {
      dk_sum += head_dk[at + h * WIDTH];
      dv_sum += head_dv[at + h * WIDTH];
    }
    dk[i] = dk_sum;
    dv[i] = dv_sum;
  }
}
