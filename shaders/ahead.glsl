// Narrow products with the norm of the row that a dispatch makes, ahead of the dispatch that takes the
// norm: each workgroup adds up `made norm a` over the columns that it makes, for each row of each a.
// Whoever reads these parts adds them up and multiplies them by 1 / rms of the whole row.
//
// The includer defines MADE, a multiple of 4: the columns that a workgroup makes, and AHEAD_COLUMNS:
// those of the row. It calls `ask_for_a(first)` early, puts what it makes into `made`, zeros for
// columns past the end, and calls `write_parts(group)` last. It has the constants WORKGROUP,
// AHEAD_RANK, the rows of each a, and STACK, those of all, and bindings for ahead_norm, each a, parts.

MATRIX_F32(ahead_norm, AT_ahead_norm, 1, AHEAD_COLUMNS)
layout(binding = AT_parts_ahead, std430) writeonly buffer PartsAhead { float parts_ahead[]; };

const uint QUADS_MADE = MADE / 4;
const uint PRODUCTS = STACK * QUADS_MADE;
const uint PRODUCTS_EACH = (PRODUCTS + WORKGROUP - 1) / WORKGROUP;

shared float made[MADE];
shared float products[PRODUCTS];

vec4 a_kept[PRODUCTS_EACH];

void ask_for_a(uint first) {
  [[unroll]] for (uint e = 0; e < PRODUCTS_EACH; e++) {
    const uint i = e * WORKGROUP + gl_LocalInvocationIndex;
    const uint column = first + 4 * (i % QUADS_MADE);
    a_kept[e] = load_any_a(i / QUADS_MADE, column) * load_ahead_norm(0, column);
  }
}

void write_parts(uint group) {
  barrier();
  [[unroll]] for (uint e = 0; e < PRODUCTS_EACH; e++) {
    const uint i = e * WORKGROUP + gl_LocalInvocationIndex;
    if (i < PRODUCTS) {
      const uint at = 4 * (i % QUADS_MADE);
      products[i] = dot(a_kept[e], vec4(made[at], made[at + 1], made[at + 2], made[at + 3]));
    }
  }
  barrier();
  for (uint i = gl_LocalInvocationIndex; i < STACK; i += WORKGROUP) {
    float sum = 0;
    for (uint quad = 0; quad < QUADS_MADE; quad++) {
      sum += products[i * QUADS_MADE + quad];
    }
    parts_ahead[group * STACK + i] = sum;
  }
}
