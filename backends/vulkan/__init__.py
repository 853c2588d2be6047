"""The Vulkan backend: a graph is lowered to a schedule, planned, and recorded once."""
