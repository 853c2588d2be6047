"""The reference backend: a NumPy interpreter."""
