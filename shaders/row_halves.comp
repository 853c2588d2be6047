#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// row_halves: y = the rows of some x side by side as f16, each x times the scale of its ternary weights
// and each row divided by its top, the power of two below its largest element. A workgroup has TOGETHER
// rows: of two, 32 bytes lie side by side in panels, which memory takes as a whole.
//
// With JOINED top is so large that each low over it is within the range of f16.
//
// Rows of y from ROWS on are zero. With PANELS y is in panels (panels.glsl), and HIGH a multiple of 128.
//
// Reference: the left factor of ternary_matmul_t_cm and of halves_product_nv. INNER is the sum of all
// INNER@, multiples of 8, HIGH of TOGETHER.
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
layout(constant_id = 5) const uint TOGETHER = 1;
#pragma each
layout(constant_id = n) const uint INNER@ = 4;
#pragma end
#ifdef JOINED
layout(constant_id = n) const uint RANK = 1;
#endif
layout(local_size_x_id = 3) in;
layout(binding = 0, std430) writeonly buffer Y { uvec4 y[]; };
layout(binding = 1, std430) writeonly buffer Top { float top[]; };
#include "panels.glsl"
#include "halves.glsl"
#include "index.glsl"
#include "power.glsl"
#include "reduce.glsl"

const uint LANES = WORKGROUP / TOGETHER;  // threads that have a row

#pragma each
layout(binding = AT_x@, std430) readonly buffer X@ { vec4 x@[]; };
layout(binding = AT_w@, std430) readonly buffer W@ { uint w@[]; };
const uint EIGHTHS@ = INNER@ / 8;
const uint LOADS@ = (EIGHTHS@ + LANES - 1) / LANES;
vec4 kept@[2 * LOADS@];
#ifdef JOINED
layout(binding = AT_low@, std430) readonly buffer Low@ { float low@[]; };
#endif
#pragma end

const float LOW_SHARE = 1.0 / 16384;  // of low, that top is not below

uint lane() {
  return gl_LocalInvocationIndex / TOGETHER;
}

float largest_of(vec4 x) {
  const vec4 quad = abs(x);
  return max(max(quad.x, quad.y), max(quad.z, quad.w));
}

// What lies past the end of a row is the end of it once more.
float read_row(uint row) {
  float largest = 0;
#pragma each
  const float scale@ = uintBitsToFloat(w@[(INNER@ * COLUMNS + 15) / 16]);
  [[unroll]] for (uint i = 0; i < LOADS@; i++) {
    const uint eighth = min(lane() + i * LANES, EIGHTHS@ - 1);
    [[unroll]] for (uint j = 0; j < 2; j++) {
      kept@[2 * i + j] = x@[(row * EIGHTHS@ + eighth) * 2 + j] * scale@;
      largest = max(largest, largest_of(kept@[2 * i + j]));
    }
  }
#ifdef JOINED
  for (uint i = lane(); i < RANK; i += LANES) {
    largest = max(largest, LOW_SHARE * abs(low@[row * RANK + i]));
  }
#endif
#pragma end
  return largest;
}

// The largest of what the threads of a row have.
uint row_max(uint own) {
  const uint mine = gl_LocalInvocationIndex % TOGETHER;
  uint highest = 0;
  [[unroll]] for (uint k = 0; k < TOGETHER; k++) {
    const uint other = workgroup_max(mine == k ? own : 0);
    highest = mine == k ? other : highest;
  }
  return highest;
}

void write_eighth(uint row, uint eighth, uvec4 halves) {
#ifdef PANELS
  y[place_in_panels(row, eighth, INNER / 8)] = halves;
#else
  y[row * (INNER / 8) + eighth] = halves;
#endif
}

void write_row(uint row, float divisor) {
  uint begin = 0;
#pragma each
  [[unroll]] for (uint i = 0; i < LOADS@; i++) {
    const uint eighth = lane() + i * LANES;
    if (eighth < EIGHTHS@) {
      const vec4 a = kept@[2 * i] / divisor, b = kept@[2 * i + 1] / divisor;
      write_eighth(row, begin + eighth, uvec4(to_halves(a), to_halves(b)));
    }
  }
  begin += EIGHTHS@;
#pragma end
}

void main() {
  const uint first = group() * TOGETHER;
  const uint row = first + gl_LocalInvocationIndex % TOGETHER;
  if (first < ROWS) {
    const uint largest = floatBitsToUint(read_row(min(row, ROWS - 1)));
    const float divisor = power_below(row_max(largest));
    if (row < ROWS) {
      if (lane() == 0) {
        top[row] = divisor;
      }
      write_row(row, divisor);
      return;
    }
  }
  if (row < HIGH) {
    for (uint i = lane(); i < INNER / 8; i += LANES) {
      write_eighth(row, i, uvec4(0));
    }
  }
}
