// The invocation's number along x.
uint index() {
  return gl_GlobalInvocationID.x;
}
