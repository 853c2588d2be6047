"""Rules and meanings of the kernels for the family `linear`: matrix products."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ....graph.ir import Node, Value
from ....graph.ops import op_def
from ....graph.tensors import Array, HostValue, Ternary
from ....graph.types import DType, tensor
from ....passes.fuse.projections import FEW_ROWS
from ..layout import assign
from .calls import (
    Lowering,
    Meaning,
    Part,
    Rule,
    groups_for,
    row_ranges,
    rows_of,
    whole,
)
from .meanings import arrays, of_op, row_powers
from .tiles import TILE_K, WORKGROUP, lanes_for, parts_for, tile_for


@dataclass(frozen=True)
class Extras:
    """What a product with ternary weights adds to its result (epilogue.glsl).

    Attributes:
        low, weight: factors of an adapter's part, low [rows, rank] times B^T, or times A where the
            product is that of a gradient.
        added: something of the result's size.
        table: angles by which heads are rotated in the end, where a kernel does that.
    """

    low: Value | None = None
    weight: Value | None = None
    added: Value | None = None
    table: Value | None = None

    @property
    def options(self) -> str:
        """What a kernel's name gets for it."""
        given = {"+low": self.low, "+added": self.added, "+rotated": self.table}
        return "".join(option for option, value in given.items() if value is not None)

    @property
    def operands(self) -> dict[str, Value]:
        """Bindings of it."""
        named = {"low": self.low, "b": self.weight, "added": self.added, "table": self.table}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def constants(self) -> dict[str, int]:
        """Specialization constants of it."""
        return {} if self.low is None else {"RANK": self.low.type.shape[1]}


NOTHING = Extras()


def row_power(lowering: Lowering, x: Value) -> Value:
    """The power of two near the largest magnitude of each row, computed once for each x."""
    if x.name in lowering.row_powers:
        return lowering.row_powers[x.name]
    rows, columns = x.type.shape
    power = lowering.scratch(tensor("f32", rows))
    constants = {"ROWS": rows, "COLUMNS": columns}
    lowering.call("row_power", groups_for(rows, 1, lowering.limits), constants, x=x, y=power)
    lowering.row_powers[x.name] = power
    return power


def _contract_rows(lowering: Lowering, node: Node) -> None:
    a, b = node.inputs
    inner, rows = a.type.shape
    sizes = (rows, inner, b.type.shape[1])
    tiled_product(lowering, "contract_rows", sizes, {"a": a, "b": b}, node.outputs[0])


def _matmul(lowering: Lowering, node: Node) -> None:
    multiply = matmul_across if node.attributes["transpose_b"] else plain_matmul
    a, b = node.inputs
    multiply(lowering, a, b, node.outputs[0])


def _half(b: Value) -> str:
    """Suffix of the kernels for a second factor of f16."""
    return "_f16" if b.type.dtype is DType.F16 else ""


def plain_matmul(lowering: Lowering, a: Value, b: Value, y: Value) -> None:
    """Y = a b."""
    sizes = (*a.type.shape, b.type.shape[1])
    tiled_product(lowering, f"matmul{_half(b)}", sizes, {"a": a, "b": b}, y)


def matmul_across(lowering: Lowering, a: Value, b: Value, y: Value) -> None:
    """Y = a b^T."""
    for begin, rows in row_ranges(lowering.limits, a, y):
        some_a, some_y = rows_of(a, begin, rows), rows_of(y, begin, rows)
        for first, columns in row_ranges(lowering.limits, b):
            some_b = rows_of(b, first, columns)
            _matmul_t(lowering, _half(b), some_a, some_b, some_y, first)


def _matmul_t(lowering: Lowering, half: str, a: Part, b: Part, y: Part, first: int) -> None:
    """Put a b^T into the columns of y from `first` on."""
    rows, inner = a.type.shape
    columns, width = b.type.shape[0], y.type.shape[1]
    place = {"WIDTH": width, "FIRST": first}
    if rows <= FEW_ROWS:
        lanes, groups = lanes_for(math.ceil(inner / 4), columns, lowering.limits)
        constants = {"ROWS": rows, "INNER": inner, "COLUMNS": columns, **lanes, **place}
        lowering.call(f"matvec{half}", groups, constants, a=a, b=b, y=y)
    else:
        tiled_product(
            lowering, f"matmul_t{half}", (rows, inner, columns), {"a": a, "b": b}, y, place
        )


def tiled_product(
    lowering: Lowering,
    kernel: str,
    sizes: tuple[int, ...],
    factors: Mapping[str, Value | Part],
    y: Value | Part,
    place: Mapping[str, int] | None = None,
    extras: Extras = NOTHING,
) -> None:
    """A tiled product of f32, in two stages where that gives more workgroups something to do.

    Args:
        lowering: gets the calls.
        kernel: its name.
        sizes: rows, inner length and columns.
        factors: what is multiplied, by name.
        y: the result.
        place: constants that say which columns of y are filled, where the kernel has them.
        extras: what is added to the result.
    """
    rows, inner, columns = sizes
    limits, target = lowering.limits, whole(y)
    tile = tile_for(rows, columns, inner)
    tiles = tile.count(rows, columns)
    parts = min(parts_for(tiles, inner), max(1, limits.max_range // target.type.nbytes))
    if parts > 1 and target.type.shape == (rows, columns):
        target = whole(lowering.scratch(tensor("f32", parts, rows, columns)))
    else:
        parts = 1
    constants = {"ROWS": rows, "INNER": inner, "COLUMNS": columns, "PARTS": parts, **(place or {})}
    groups = groups_for(tiles * parts, 1, limits)
    constants |= {**tile.constants, **extras.constants}
    operands = {**factors, **extras.operands}
    lowering.call(f"{kernel}{extras.options}", groups, constants, **operands, y=target)
    if parts > 1:
        sum_parts(lowering, target, y)


def sum_parts(lowering: Lowering, parts: Value | Part, y: Value | Part) -> None:
    """Y = the sum along the first axis, always in the same order."""
    count, size = whole(parts).type.shape[0], whole(y).type.size
    constants = {"PARTS": count, "SIZE": size, "WORKGROUP": WORKGROUP}
    groups = groups_for(size, WORKGROUP, lowering.limits)
    lowering.call("sum_parts", groups, constants, x=parts, y=y)


_Multiply: TypeAlias = Callable[[Array, Array, slice], Array]
"""(left factor, right factor, part of the inner axis) -> product of that part."""


def _by_parts(multiply: _Multiply) -> Meaning:
    """The meaning of a kernel that computes each part of the inner axis apart."""

    def meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        left, right, y = operands.values()
        assert isinstance(y, np.ndarray)
        rows, columns = int(constants["ROWS"]), int(constants["COLUMNS"])
        parts, first = int(constants.get("PARTS", 1)), int(constants.get("FIRST", 0))
        step = part_of_inner(constants)
        target = y.reshape(parts, rows, -1)[:, :, first : first + columns]
        for k in range(parts):
            some = slice(k * step, (k + 1) * step)
            target[k] = multiply(dense(left), dense(right), some)

    return meaning


def part_of_inner(constants: Mapping[str, int | float]) -> int:
    """How much of the inner axis each part of a tiled product has; the last ones have less."""
    inner, parts = int(constants["INNER"]), int(constants.get("PARTS", 1))
    return math.ceil(math.ceil(inner / TILE_K) / parts) * TILE_K


def _finished(meaning: Meaning, across: bool = False) -> Meaning:
    """The meaning of a kernel with epilogue.glsl."""

    def finished(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        (y,) = arrays(operands, "y")
        over_added = {"y": np.empty_like(y)}  # y may lie over what is added to it
        factors = {name: x for name, x in operands.items() if name not in _ADDED_LAST}
        meaning(constants, {**factors, **over_added})
        total = over_added["y"]
        target = total[0] if total.ndim == 3 else total
        target[...] = finish_product(target, constants, operands, across)
        y[...] = total

    return finished


_ADDED_LAST = ("low", "b", "added", "table")


def finish_product(
    total: Array,
    constants: Mapping[str, int | float],
    operands: Mapping[str, HostValue],
    across: bool = False,
) -> Array:
    """What epilogue.glsl makes of a product, and the rotation behind it."""
    for some in operands.keys() & {"low"}:
        low, b = arrays(operands, some, "b")
        total = total + low @ (b if across else b.T)
    for x in arrays(operands, *operands.keys() & {"added"}):
        total = total + x
    for table in arrays(operands, *operands.keys() & {"table"}):
        heads = total.reshape(len(total), -1, table.shape[1])
        turned = op_def("rope").eval(heads, table, inverse=False)
        assert isinstance(turned, np.ndarray)
        total = turned.reshape(total.shape)
    return total


def dense(factor: HostValue) -> Array:
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


def _sum_parts_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    parts = operands["x"]
    assert isinstance(parts, np.ndarray)
    assign(operands["y"], np.sum(parts, axis=0))


def _row_power(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    assign(operands["y"], row_powers(dense(operands["x"])))


RULES: dict[str, Rule] = {
    "matmul": _matmul,
    "contract_rows": _contract_rows,
}

_ON_CODES = (
    "ternary_matmul",
    "ternary_matmul_dot",
)

MEANINGS: dict[str, Meaning] = {
    **{name: _finished(of_op("ternary_matmul", name)[1]) for name in _ON_CODES},
    "ternary_matmul_f32": _finished(_by_parts(_times_transposed)),
    "ternary_matmul_t": _finished(_by_parts(_times), across=True),
    "row_power": _row_power,
    "matmul": _by_parts(_times),
    "matmul_f16": _by_parts(_times),
    "matmul_t": _by_parts(_times_transposed),
    "matmul_t_f16": _by_parts(_times_transposed),
    "matvec": _by_parts(_times_transposed),
    "matvec_f16": _by_parts(_times_transposed),
    "contract_rows": _by_parts(_transposed_times),
    "sum_parts": _sum_parts_meaning,
}
