"""BitNet b1.58 as a graph."""
