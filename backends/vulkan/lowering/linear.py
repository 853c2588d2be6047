"""Rules and meanings of the kernels for the family `linear`: matrix products."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ....graph.ir import Node, Value
from ....graph.tensors import GROUP, Array, HostValue, Ternary
from ....graph.types import DType, tensor
from ..layout import assign
from ..limits import Limits
from .calls import Lowering, Meaning, Part, Rule, groups_for, row_ranges, rows_of, whole
from .meanings import of_op

FEW_ROWS = 8
"""Rows up to which a product is a matter of reading the weights once: matrix-vector kernels."""

_WORKGROUP = 128
_TILE_K = 16
_STRIP = 64
"""Weights that a thread of ternary_matvec reads at once."""
_LANES = (32, 16, 8, 4, 2, 1)
_WORKGROUPS_WANTED = 256
"""How many keep a large device busy; the inner axis is split where there are fewer tiles."""
_INNER_WANTED = 128
"""Inner length that makes a part worth its second stage."""


@dataclass(frozen=True)
class _Tile:
    """What a workgroup computes, and the squares of 4 x 4 sums of a thread; see tile.glsl."""

    rows: int
    columns: int
    quads_m: int = 1
    quads_n: int = 1

    @property
    def constants(self) -> dict[str, int]:
        """The specialization constants."""
        return {
            "TILE_M": self.rows,
            "TILE_N": self.columns,
            "QUADS_M": self.quads_m,
            "QUADS_N": self.quads_n,
            "WORKGROUP": self.rows * self.columns // (16 * self.quads_m * self.quads_n),
        }

    def count(self, rows: int, columns: int) -> int:
        """Tiles of a matrix."""
        return math.ceil(rows / self.rows) * math.ceil(columns / self.columns)


def _tile(rows: int, columns: int) -> _Tile:
    """A tile for a product of that size: as narrow as the product, small where tiles are few."""
    if rows <= 16:
        return _Tile(16, 128)
    if columns <= 16:
        return _Tile(128, 16)
    if rows <= 32:
        return _Tile(32, 128, 1, 2)
    if columns <= 32:
        return _Tile(128, 32, 2, 1)
    large = _Tile(128, 64, 2, 1)
    return large if large.count(rows, columns) >= _WORKGROUPS_WANTED else _Tile(64, 64)


def _ternary_matmul(lowering: Lowering, node: Node) -> None:
    x, w = node.inputs
    (y,) = node.outputs
    rows, inner = x.type.shape
    columns = w.type.shape[0]
    if x.type.dtype is not DType.Q8:
        _product(lowering, "ternary_matmul_f32", (rows, inner, columns), {}, x=x, w=w, y=y)
        return
    dot = "_dot" if "integer_dot_product" in lowering.limits.features else ""
    sizes = {"ROWS": rows, "INNER": inner, "COLUMNS": columns}
    if rows <= FEW_ROWS and inner % GROUP == 0:
        lanes, groups = _lanes(lowering, inner // _STRIP, columns)
        lowering.call(f"ternary_matvec{dot}", groups, {**sizes, **lanes}, x=x, w=w, y=y)
    else:
        tile = _tile(rows, columns)
        groups = groups_for(tile.count(rows, columns), 1, lowering.limits)
        lowering.call(f"ternary_matmul{dot}", groups, {**sizes, **tile.constants}, x=x, w=w, y=y)


def _ternary_matmul_t(lowering: Lowering, node: Node) -> None:
    x, w = node.inputs
    sizes = (*x.type.shape, w.type.shape[1])
    _product(lowering, "ternary_matmul_t", sizes, {}, x=x, w=w, y=node.outputs[0])


def _contract_rows(lowering: Lowering, node: Node) -> None:
    a, b = node.inputs
    inner, rows = a.type.shape
    sizes = (rows, inner, b.type.shape[1])
    _product(lowering, "contract_rows", sizes, {}, a=a, b=b, y=node.outputs[0])


def _matmul(lowering: Lowering, node: Node) -> None:
    a, b = node.inputs
    (y,) = node.outputs
    half = "_f16" if b.type.dtype is DType.F16 else ""
    if not node.attributes["transpose_b"]:
        sizes = (*a.type.shape, b.type.shape[1])
        _product(lowering, f"matmul{half}", sizes, {}, a=a, b=b, y=y)
        return
    for begin, rows in row_ranges(lowering.limits, a, y):
        some_a, some_y = rows_of(a, begin, rows), rows_of(y, begin, rows)
        for first, columns in row_ranges(lowering.limits, b):
            some_b = rows_of(b, first, columns)
            _matmul_t(lowering, half, some_a, some_b, some_y, first)


def _matmul_t(lowering: Lowering, half: str, a: Part, b: Part, y: Part, first: int) -> None:
    """Put a b^T into the columns of y from `first` on."""
    rows, inner = a.type.shape
    columns, width = b.type.shape[0], y.type.shape[1]
    place = {"WIDTH": width, "FIRST": first}
    if rows <= FEW_ROWS:
        lanes, groups = _lanes(lowering, math.ceil(inner / 4), columns)
        constants = {"ROWS": rows, "INNER": inner, "COLUMNS": columns, **lanes, **place}
        lowering.call(f"matvec{half}", groups, constants, a=a, b=b, y=y)
    else:
        _product(lowering, f"matmul_t{half}", (rows, inner, columns), place, a=a, b=b, y=y)


def _lanes(
    lowering: Lowering, loads: int, columns: int
) -> tuple[dict[str, int], tuple[int, int, int]]:
    """Constants and groups of a matrix-vector kernel whose threads share so many loads.

    As many threads share a sum as can without a fifth of them being idle.
    """
    lanes = next(n for n in _LANES if loads >= 0.8 * n * math.ceil(loads / n))
    groups = groups_for(columns, _WORKGROUP // lanes, lowering.limits)
    return {"LANES": lanes, "WORKGROUP": _WORKGROUP}, groups


def _product(
    lowering: Lowering,
    kernel: str,
    sizes: tuple[int, ...],
    place: Mapping[str, int],
    *,
    y: Value | Part,
    **operands: Value | Part,
) -> None:
    """A tiled product of f32, in two stages where that gives more workgroups something to do.

    Args:
        lowering: gets the calls.
        kernel: its name.
        sizes: rows, inner length and columns.
        place: constants that say which columns of y are filled, if not all.
        y: the result.
        **operands: the factors.
    """
    rows, inner, columns = sizes
    tile = _tile(rows, columns)
    tiles = tile.count(rows, columns)
    shape = whole(y).type.shape
    parts = _parts(tiles, inner, whole(y), lowering.limits) if shape[1] == columns else 1
    target = lowering.scratch(tensor("f32", parts, *shape)) if parts > 1 else y
    constants = {"ROWS": rows, "INNER": inner, "COLUMNS": columns, "PARTS": parts, **place}
    groups = groups_for(tiles * parts, 1, lowering.limits)
    lowering.call(kernel, groups, {**constants, **tile.constants}, **operands, y=target)
    if parts > 1:
        size = rows * columns
        constants = {"PARTS": parts, "SIZE": size, "WORKGROUP": _WORKGROUP}
        groups = groups_for(size, _WORKGROUP, lowering.limits)
        lowering.call("sum_parts", groups, constants, x=target, y=y)


def _parts(tiles: int, inner: int, y: Part, limits: Limits) -> int:
    """Into how many parts the inner axis is split."""
    useful = min(_WORKGROUPS_WANTED // tiles, inner // _INNER_WANTED)
    return max(1, min(useful, limits.max_range // y.type.nbytes))


_Multiply = Callable[[Array, Array, slice], Array]
"""(left factor, right factor, part of the inner axis) -> product of that part."""


def _by_parts(multiply: _Multiply) -> Meaning:
    """The meaning of a kernel that computes each part of the inner axis apart."""

    def meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        left, right, y = operands.values()
        assert isinstance(y, np.ndarray)
        inner, rows, columns = (int(constants[name]) for name in ("INNER", "ROWS", "COLUMNS"))
        parts, first = int(constants.get("PARTS", 1)), int(constants.get("FIRST", 0))
        step = math.ceil(math.ceil(inner / _TILE_K) / parts) * _TILE_K
        target = y.reshape(parts, rows, -1)[:, :, first : first + columns]
        for k in range(parts):
            some = slice(k * step, (k + 1) * step)
            target[k] = multiply(_dense(left), _dense(right), some)

    return meaning


def _dense(factor: HostValue) -> Array:
    """A factor as f32."""
    if isinstance(factor, Ternary):
        weights: Array = factor.dense(np.float32) * np.float32(factor.scale)
        return weights
    assert isinstance(factor, np.ndarray)
    return factor.astype(np.float32)


def _times(a: Array, b: Array, some: slice) -> Array:
    product: Array = a[:, some] @ b[some]
    return product


def _times_transposed(a: Array, b: Array, some: slice) -> Array:
    product: Array = a[:, some] @ b[:, some].T
    return product


def _transposed_times(a: Array, b: Array, some: slice) -> Array:
    product: Array = a[some].T @ b[some]
    return product


def _sum_parts(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    parts = operands["x"]
    assert isinstance(parts, np.ndarray)
    assign(operands["y"], np.sum(parts, axis=0))


RULES: dict[str, Rule] = {
    "ternary_matmul": _ternary_matmul,
    "ternary_matmul_t": _ternary_matmul_t,
    "matmul": _matmul,
    "contract_rows": _contract_rows,
}

_ON_CODES = ("ternary_matmul", "ternary_matmul_dot", "ternary_matvec", "ternary_matvec_dot")

MEANINGS: dict[str, Meaning] = {
    **dict(of_op("ternary_matmul", name) for name in _ON_CODES),
    "ternary_matmul_f32": _by_parts(_times_transposed),
    "ternary_matmul_t": _by_parts(_times),
    "matmul": _by_parts(_times),
    "matmul_f16": _by_parts(_times),
    "matmul_t": _by_parts(_times_transposed),
    "matmul_t_f16": _by_parts(_times_transposed),
    "matvec": _by_parts(_times_transposed),
    "matvec_f16": _by_parts(_times_transposed),
    "contract_rows": _by_parts(_transposed_times),
    "sum_parts": _sum_parts,
}
