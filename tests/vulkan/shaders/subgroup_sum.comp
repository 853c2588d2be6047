#version 460
#extension GL_KHR_shader_subgroup_arithmetic : require
// subgroup_sum: y[i] = sum of x over the subgroup of invocation i.
//
// Bindings:
//   0 read  x u32[SIZE]
//   1 write y u32[SIZE]
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint SIZE = 64;
layout(constant_id = 1) const uint SUBGROUP_SIZE = 8;
layout(std430, binding = 0) readonly buffer X { uint x[]; };
layout(std430, binding = 1) writeonly buffer Y { uint y[]; };

void main() {
  const uint i = gl_GlobalInvocationID.x;
  const uint sum = subgroupAdd(i < SIZE ? x[i] : 0);
  if (i < SIZE) {
    y[i] = gl_SubgroupSize == SUBGROUP_SIZE ? sum : 0;
  }
}
