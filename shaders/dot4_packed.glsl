// int dot4(a, b): the sum of products of four signed bytes each, as one instruction.
//
// OpSDot (4450) on packed vectors of four 8-bit components; capabilities DotProduct (6019) and
// DotProductInput4x8BitPacked (6018); format PackedVectorFormat4x8Bit (0).

#extension GL_EXT_spirv_intrinsics : require

spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6018, 6019],
                  id = 4450)
int packed_dot(int a, int b, spirv_literal int format);

int dot4(int a, int b) {
  return packed_dot(a, b, 0);
}
