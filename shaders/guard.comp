#version 460
#extension GL_GOOGLE_include_directive : require
// guard: guarded = norm while sound is 1 and both loss and norm are finite; else NaN, and sound
// becomes 0 for good.
//
// Reference: op guard.
// Bindings:
//   0 read   norm    f32[]
//   1 read   loss    f32[]
//   2 write  guarded f32[]
//   3 update sound   i32[]
layout(local_size_x = 1) in;
layout(binding = 0, std430) readonly buffer Norm { float norm; };
layout(binding = 1, std430) readonly buffer Loss { float loss; };
layout(binding = 2, std430) writeonly buffer Guarded { float guarded; };
layout(binding = 3, std430) buffer Sound { int sound; };
#include "magnitude.glsl"

void main() {
  const bool finite = magnitude(norm) < INFINITE && magnitude(loss) < INFINITE;
  const bool holds = sound == 1 && finite;
  sound = int(holds);
  guarded = uintBitsToFloat(holds ? floatBitsToUint(norm) : NOT_A_NUMBER);
}
