"""Factors for matrix units in panels of 128 rows (shaders/panels.glsl)."""

import numpy as np

from ....graph.tensors import GROUP, Array

ROWS = 128
"""Rows of a panel, those of the largest tile."""


def into_panels(x: Array) -> Array:
    """A matrix in panels; its rows are a multiple of 128, their bytes of 16."""
    rows, columns = x.shape
    width = 16 // x.itemsize
    return x.reshape(rows // ROWS, ROWS, -1, width).swapaxes(1, 2).reshape(rows, columns)


def from_panels(panels: Array) -> Array:
    """The matrix that `into_panels` was given."""
    rows, columns = panels.shape
    width = 16 // panels.itemsize
    return panels.reshape(rows // ROWS, -1, ROWS, width).swapaxes(1, 2).reshape(rows, columns)


def in_order_of_weights(codes: Array) -> Array:
    """Activations 16 at a time in the order of the words of ternary weights.

    Those of one half of each group of 128 come together, as ternary_matmul_cm reads them.
    """
    return _swap(codes, GROUP // 32, 2)


def in_order(codes: Array) -> Array:
    """The activations that `in_order_of_weights` was given."""
    return _swap(codes, 2, GROUP // 32)


def _swap(codes: Array, first: int, second: int) -> Array:
    groups = codes.reshape(len(codes), -1, first, second, 16)
    return np.ascontiguousarray(groups.swapaxes(2, 3)).reshape(codes.shape)
