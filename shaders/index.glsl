// Numbers along one flat axis of workgroups, whose dispatch folds them into y where x does not
// suffice. The including file declares the workgroup's size first, and skips what lies past the end.

uint group() {
  return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
}

uint item() {
  return group() * gl_WorkGroupSize.x + gl_LocalInvocationIndex;
}
