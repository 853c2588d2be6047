// Which tile of a product a workgroup has, and how much of its inner axis
// (backends/vulkan/lowering/shares.py).
//
// Each of the first WHOLE tiles has a workgroup. With SPLIT every other tile has PARTS of them, each
// with some steps of the inner axis; they lay the bits of their sums into `parts`. With REST, in a
// dispatch after that, they are added up and finished, a strip of UNIT x STRIP by each subgroup.
//
// Include it behind units.glsl. The includer has the constants of units.glsl, ROWS and TILES_N; with
// SPLIT or REST also WHOLE, PARTS and UNITS, the number of workgroups that share tiles, and the macros
//   SUMS                    a vector of four SUM
//   TO_SUMS(bits), TO_BITS(sums)  what they are as bits

#include "index.glsl"

const uint TILES = (ROWS + TILE_M - 1) / TILE_M * TILES_N;

struct Work {
  uint row;     // of the tile's first sum
  uint column;
  uint begin;   // values of k
  uint end;
};

Work work_on(uint tile, uint begin, uint end) {
  return Work(tile / TILES_N * TILE_M, tile % TILES_N * TILE_N, begin, end);
}

#ifdef SPLIT
layout(binding = AT_parts, std430) writeonly buffer Parts { uvec4 parts[]; };

bool keeps_sums() {
  return group() >= WHOLE;
}

void keep_square(uint row, uint apart, uint column, uvec4 bits[4]) {
  const uint first = (group() - WHOLE) * TILE_M + row;
  [[unroll]] for (uint i = 0; i < 4; i++) {
    parts[((first + i * apart) * TILE_N + column) / 4] = bits[i];
  }
}
#endif

// The work of this workgroup. Past the last, rows are at ROWS or beyond.
Work own_work() {
#ifdef SPLIT
  if (group() >= WHOLE) {
    const uint unit = group() - WHOLE;
    const uint part = unit % PARTS;
    const uint steps = INNER / DEPTH;
    return work_on(WHOLE + unit / PARTS, steps * part / PARTS * DEPTH,
                   steps * (part + 1) / PARTS * DEPTH);
  }
#endif
  return work_on(group(), 0, INNER);
}

#ifdef REST
layout(binding = AT_sums, std430) readonly buffer Sums { uvec4 sums[]; };

void finish_strip() {
  const uint blocks = TILE_M * TILE_N / (16 * WORKGROUP);
  const uint shared_tile = group() / blocks;
  const uint strip = group() % blocks * (WORKGROUP / SUBGROUP_SIZE) + gl_SubgroupID;
  const uint row = strip / (TILE_N / STRIP) * UNIT + gl_SubgroupInvocationID / (STRIP / 4);
  const uint column = strip % (TILE_N / STRIP) * STRIP + gl_SubgroupInvocationID % (STRIP / 4) * 4;
  if (shared_tile >= UNITS / PARTS) {
    return;
  }
  uvec4 bits[4];
  [[unroll]] for (uint i = 0; i < 4; i++) {
    SUMS total = SUMS(0);
    for (uint part = 0; part < PARTS; part++) {
      const uint line = (shared_tile * PARTS + part) * TILE_M + row + i * APART;
      total += TO_SUMS(sums[(line * TILE_N + column) / 4]);
    }
    bits[i] = TO_BITS(total);
  }
  const Work work = work_on(WHOLE + shared_tile, 0, 0);
  store_square(work.row + row, APART, work.column + column, bits);
}
#endif
