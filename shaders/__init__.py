"""GLSL compute shaders, one kernel a file; `backends.vulkan` says which op each serves."""
