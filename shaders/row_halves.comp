#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// row_halves: y = the rows of some x side by side as f16, each x times the scale of its ternary weights
// and each row divided by its top, the power of two below its largest element. One workgroup a row.
//
// With JOINED top is so large that each low over it is within the range of f16.
//
// Rows of y from ROWS on are zero. With PANELS y is in panels (panels.glsl), and HIGH a multiple of 128.
//
// Reference: the left factor of ternary_matmul_t_cm and of halves_product_nv. INNER is the sum of all
// INNER@, multiples of 4; of 8 with PANELS.
// Bindings:
//   0 write y   f16[HIGH,INNER]
//   1 write top f32[ROWS]
#pragma each
//   n read  x@  f32[ROWS,INNER@]
//   n read  w@  t2[INNER@,COLUMNS]
#ifdef JOINED
//   n read  low@ f32[ROWS,RANK]
#endif
#pragma end
layout(constant_id = 0) const uint ROWS = 1;
layout(constant_id = 1) const uint INNER = 4;
layout(constant_id = 2) const uint COLUMNS = 1;
layout(constant_id = 3) const uint WORKGROUP = 32;
layout(constant_id = 4) const uint HIGH = 1;
#pragma each
layout(constant_id = n) const uint INNER@ = 4;
#pragma end
#ifdef JOINED
layout(constant_id = n) const uint RANK = 1;
#endif
layout(local_size_x_id = 3) in;
layout(binding = 0, std430) writeonly buffer Y { uvec2 y[]; };
layout(binding = 1, std430) writeonly buffer Top { float top[]; };
#include "panels.glsl"
#include "halves.glsl"
#include "index.glsl"
#include "power.glsl"
#include "reduce.glsl"

#pragma each
layout(binding = AT_x@, std430) readonly buffer X@ { vec4 x@[]; };
layout(binding = AT_w@, std430) readonly buffer W@ { uint w@[]; };
const uint QUADS@ = INNER@ / 4;
const uint LOADS@ = (QUADS@ + WORKGROUP - 1) / WORKGROUP;
vec4 kept@[LOADS@];
#ifdef JOINED
layout(binding = AT_low@, std430) readonly buffer Low@ { float low@[]; };
#endif
#pragma end

const float LOW_SHARE = 1.0 / 16384;  // of low, that top is not below

float largest_of(vec4 x) {
  const vec4 quad = abs(x);
  return max(max(quad.x, quad.y), max(quad.z, quad.w));
}

float read_row(uint row) {
  float largest = 0;
#pragma each
  const float scale@ = uintBitsToFloat(w@[(INNER@ * COLUMNS + 15) / 16]);
  [[unroll]] for (uint i = 0; i < LOADS@; i++) {
    const uint quad = gl_LocalInvocationIndex + i * WORKGROUP;
    kept@[i] = quad < QUADS@ ? x@[row * QUADS@ + quad] * scale@ : vec4(0);
    largest = max(largest, largest_of(kept@[i]));
  }
#ifdef JOINED
  for (uint i = gl_LocalInvocationIndex; i < RANK; i += WORKGROUP) {
    largest = max(largest, LOW_SHARE * abs(low@[row * RANK + i]));
  }
#endif
#pragma end
  return largest;
}

void write_quad(uint row, uint quad, uvec2 halves) {
#ifdef PANELS
  y[2 * place_in_panels(row, quad / 2, INNER / 8) + quad % 2] = halves;
#else
  y[row * (INNER / 4) + quad] = halves;
#endif
}

void write_row(uint row, float divisor) {
  uint begin = 0;
#pragma each
  [[unroll]] for (uint i = 0; i < LOADS@; i++) {
    const uint quad = gl_LocalInvocationIndex + i * WORKGROUP;
    if (quad < QUADS@) {
      write_quad(row, begin + quad, to_halves(kept@[i] / divisor));
    }
  }
  begin += QUADS@;
#pragma end
}

void main() {
  const uint row = group();
  if (row < ROWS) {
    const float divisor = power_below(workgroup_max(floatBitsToUint(read_row(row))));
    if (gl_LocalInvocationIndex == 0) {
      top[row] = divisor;
    }
    write_row(row, divisor);
  } else if (row < HIGH) {
    for (uint i = gl_LocalInvocationIndex; i < INNER / 4; i += WORKGROUP) {
      write_quad(row, i, uvec2(0));
    }
  }
}
