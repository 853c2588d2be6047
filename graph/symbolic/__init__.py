"""Proofs of gradients: an op's NumPy meaning and its VJP, run on symbols instead of numbers."""
