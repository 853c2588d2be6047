"""Factors for matrix units in blocks of eight rows of 16 bytes (shaders/blocks.glsl)."""

from ....graph.tensors import Array

ROWS = 128
"""Blocks are made for a multiple of so many rows, those of the largest tile."""


def into_blocks(x: Array) -> Array:
    """A matrix in blocks; its rows are a multiple of 8, their bytes of 16."""
    rows, columns = x.shape
    width = 16 // x.itemsize
    blocks = x.reshape(rows // 8, 8, columns // width, width).swapaxes(1, 2)
    return blocks.reshape(rows, columns)


def from_blocks(blocks: Array) -> Array:
    """The matrix that `into_blocks` was given."""
    rows, columns = blocks.shape
    width = 16 // blocks.itemsize
    x = blocks.reshape(rows // 8, columns // width, 8, width).swapaxes(1, 2)
    return x.reshape(rows, columns)
