"""Rules and meanings of the kernels for the family `linear`: matrix products."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ....graph.ir import Node, Value
from ....graph.ops import op_def
from ....graph.tensors import GROUP, Array, HostValue, Ternary
from ....graph.types import DType, tensor
from ....passes.fuse.projections import FEW_ROWS
from ..layout import assign
from ..limits import Limits
from ..variants import with_members
from .calls import Lowering, Meaning, Part, Rule, groups_for, row_ranges, rows_of, whole
from .matvec import Around, Member, is_matvec, ternary_matvec
from .meanings import arrays, of_op
from .quantize import dequantize
from .tiles import TILE_K, WORKGROUP, Tile, lanes_for, parts_for, tile_for, unit_tile_for


@dataclass(frozen=True)
class Extras:
    """What a product with ternary weights adds to its result (epilogue.glsl).

    Attributes:
        low, weight: factors of an adapter's part, low [rows, rank] times B^T, or times A where the
            product is that of a gradient.
        added: something of the result's size.
        table: angles by which heads are rotated in the end, where `rotates` allows it.
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


_NOTHING = Extras()


def _ternary_matmul(lowering: Lowering, node: Node) -> None:
    x, w = node.inputs
    (y,) = node.outputs
    if w.type.dtype is DType.T2:
        ternary_product(lowering, x, w, y, _NOTHING)
        return
    if x.type.dtype is DType.Q8:
        codes, x = x, lowering.scratch(tensor("f32", *x.type.shape))
        dequantize(lowering, codes, x)
    _matmul_across(lowering, x, w, y)


def ternary_product(lowering: Lowering, x: Value, w: Value, y: Value, extras: Extras) -> None:
    """Y = x w^T and what is added to it, with ternary weights."""
    sizes = (*x.type.shape, w.type.shape[0])
    if x.type.dtype is not DType.Q8:
        tiled_product(lowering, "ternary_matmul_f32", sizes, {"x": x, "w": w}, y, extras=extras)
    elif is_matvec(x):
        member = Member(w, y, extras.low, extras.weight, turns=extras.table is not None)
        ternary_matvec(lowering, x, [member], Around(added=extras.added, table=extras.table))
    else:
        _ternary_tiles(lowering, sizes, x, w, y, extras)


def _ternary_tiles(
    lowering: Lowering, sizes: tuple[int, ...], x: Value, w: Value, y: Value, extras: Extras
) -> None:
    rows, inner, columns = sizes
    limits = lowering.limits
    kernel, tile = f"ternary_matmul{_dot(lowering)}", tile_for(rows, columns, 1)
    unit_tile = _codes_tile(lowering, x, w)
    if unit_tile is not None:
        kernel, tile = "ternary_matmul_cm", unit_tile
    constants = {"ROWS": rows, "INNER": inner, "COLUMNS": columns, **tile.constants}
    groups = groups_for(tile.count(rows, columns), 1, limits)
    kernel, constants = f"{kernel}{extras.options}", {**constants, **extras.constants}
    lowering.call(kernel, groups, constants, x=x, w=w, y=y, **extras.operands)


def _codes_tile(lowering: Lowering, x: Value, w: Value) -> Tile | None:
    """The tile for x w^T of int8 activations on matrix units, or None if they do not fit."""
    (rows, inner), columns = x.type.shape, w.type.shape[0]
    if "cooperative_matrix_s8" not in lowering.limits.features or x.type.dtype is not DType.Q8:
        return None
    if rows <= FEW_ROWS or inner % GROUP or columns % 4:
        return None
    return unit_tile_for(rows, columns, lowering.limits)


def rotates(lowering: Lowering, x: Value, w: Value, rope: Node) -> bool:
    """Whether the kernel of x w^T can rotate the heads too.

    On matrix units a tile must be as wide as a head; for few rows any head will do.
    """
    if rope.attributes["inverse"] or x.type.dtype is not DType.Q8:
        return False
    if is_matvec(x):
        return True
    tile = _codes_tile(lowering, x, w)
    shuffles = "subgroup_shuffle" in lowering.limits.features
    return tile is not None and shuffles and rope.inputs[0].type.shape[2] == tile.columns


def _dot(lowering: Lowering) -> str:
    """Suffix of the kernels that use packed dot products, if the device has them."""
    return "_dot" if "integer_dot_product" in lowering.limits.features else ""


@dataclass(frozen=True)
class Backward:
    """One term of a sum of products with ternary weights: x w, and low A where it has an adapter.

    Attributes:
        x, w: the factors.
        power: what `row_power` gives of x, where `halves_tile` gives a tile.
        low, weight: of the adapter.
    """

    x: Value
    w: Value
    power: Value | None = None
    low: Value | None = None
    weight: Value | None = None


def _ternary_matmul_t(lowering: Lowering, node: Node) -> None:
    x, w = node.inputs
    if w.type.dtype is not DType.T2:
        _plain_matmul(lowering, x, w, node.outputs[0])
        return
    power = None
    if halves_tile(lowering, x, w) is not None:
        power = row_power(lowering, x)
    ternary_products_t(lowering, (Backward(x, w, power),), node.outputs[0])


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


def halves_tile(lowering: Lowering, x: Value, w: Value) -> Tile | None:
    """The tile for x w on matrix units, which need the rows' powers, or None if they do not fit."""
    (rows, inner), columns = x.type.shape, w.type.shape[1]
    if "cooperative_matrix_f16" not in lowering.limits.features:
        return None
    if inner % 32 or columns % GROUP or rows <= FEW_ROWS:
        return None
    return unit_tile_for(rows, columns, lowering.limits)


def ternary_products_t(
    lowering: Lowering, terms: Sequence[Backward], y: Value, added: Value | None = None
) -> None:
    """Y = the sum of all terms, and `added`; in as few dispatches as may be."""
    parts = _dispatched_together(terms, lowering.limits)
    for number, some in enumerate(parts):
        target = y if number == len(parts) - 1 else lowering.scratch(y.type)
        if some[0].power is None:
            (term,) = some
            extras = Extras(term.low, term.weight, added)
            sizes, factors = (*term.x.type.shape, y.type.shape[1]), {"x": term.x, "w": term.w}
            tiled_product(lowering, "ternary_matmul_t", sizes, factors, target, extras=extras)
        else:
            _ternary_units_t(lowering, some, target, added)
        added = target


def _dispatched_together(terms: Sequence[Backward], limits: Limits) -> list[Sequence[Backward]]:
    """The terms by what one dispatch adds up: on matrix units as many as it binds."""
    parts: list[Sequence[Backward]] = [(term,) for term in terms if term.power is None]
    for has_low, each in ((True, 5), (False, 3)):
        some = [t for t in terms if t.power is not None and (t.low is not None) == has_low]
        most = max(1, (limits.bindings - 2) // each)
        parts += [some[begin : begin + most] for begin in range(0, len(some), most)]
    return parts


def _ternary_units_t(
    lowering: Lowering, terms: Sequence[Backward], y: Value, added: Value | None
) -> None:
    rows, columns = y.type.shape
    tile = halves_tile(lowering, terms[0].x, terms[0].w)
    assert tile is not None, "who gives powers has asked for the tile"
    extras = Extras(terms[0].low, terms[0].weight, added)
    constants = {"ROWS": rows, "COLUMNS": columns, **tile.constants, **extras.constants}
    operands: dict[str, Value] = {"y": y} if added is None else {"y": y, "added": added}
    for number, term in enumerate(terms):
        constants[f"INNER{number}"] = term.x.type.shape[1]
        named = {"x": term.x, "power": term.power, "w": term.w, "low": term.low, "b": term.weight}
        operands |= {f"{name}{number}": v for name, v in named.items() if v is not None}
    groups = groups_for(tile.count(rows, columns), 1, lowering.limits)
    kernel = with_members(f"ternary_matmul_t_cm{extras.options}", len(terms))
    lowering.call(kernel, groups, constants, **operands)


def _contract_rows(lowering: Lowering, node: Node) -> None:
    a, b = node.inputs
    inner, rows = a.type.shape
    sizes = (rows, inner, b.type.shape[1])
    tiled_product(lowering, "contract_rows", sizes, {"a": a, "b": b}, node.outputs[0])


def _matmul(lowering: Lowering, node: Node) -> None:
    multiply = _matmul_across if node.attributes["transpose_b"] else _plain_matmul
    a, b = node.inputs
    multiply(lowering, a, b, node.outputs[0])


def _half(b: Value) -> str:
    """Suffix of the kernels for a second factor of f16."""
    return "_f16" if b.type.dtype is DType.F16 else ""


def _plain_matmul(lowering: Lowering, a: Value, b: Value, y: Value) -> None:
    """Y = a b."""
    sizes = (*a.type.shape, b.type.shape[1])
    tiled_product(lowering, f"matmul{_half(b)}", sizes, {"a": a, "b": b}, y)


def _matmul_across(lowering: Lowering, a: Value, b: Value, y: Value) -> None:
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
    extras: Extras = _NOTHING,
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
            target[k] = multiply(_dense(left), _dense(right), some)

    return meaning


def part_of_inner(constants: Mapping[str, int | float]) -> int:
    """How much of the inner axis each part of a tiled product has; the last ones have less."""
    inner, parts = int(constants["INNER"]), int(constants.get("PARTS", 1))
    return math.ceil(math.ceil(inner / TILE_K) / parts) * TILE_K


def _finished(meaning: Meaning, across: bool = False) -> Meaning:
    """The meaning of a kernel with epilogue.glsl."""

    def finished(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        more = ("low", "b", "added", "table")
        added = [x.copy() for x in arrays(operands, *operands.keys() & {"added"})]
        meaning(constants, {name: x for name, x in operands.items() if name not in more})
        (y,) = arrays(operands, "y")
        target = y[0] if y.ndim == 3 else y
        if "low" in operands:
            low, b = arrays(operands, "low", "b")
            target += low @ (b if across else b.T)
        for x in added:  # read before y, which may lie over it, was written
            target += x
        for table in arrays(operands, *operands.keys() & {"table"}):
            heads = target.reshape(len(target), -1, table.shape[1])
            turned = op_def("rope").eval(heads, table, inverse=False)
            assert isinstance(turned, np.ndarray)
            heads[...] = turned

    return finished


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


def _sum_parts_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    parts = operands["x"]
    assert isinstance(parts, np.ndarray)
    assign(operands["y"], np.sum(parts, axis=0))


def _row_power(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    assign(operands["y"], row_powers(_dense(operands["x"])))


def row_powers(x: Array) -> Array:
    """The power of two below the largest magnitude of each row, or equal to it."""
    exponents = np.max(np.abs(x), axis=1).view(np.uint32) >> 23
    powers: Array = (np.clip(exponents, 1, 253) << 23).view(np.float32)
    return powers


def _on_units(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    numbers = range(sum(name.startswith("x") for name in operands))
    weights = [operands[f"w{k}"] for k in numbers]
    scales = [np.float32(w.scale) for w in weights if isinstance(w, Ternary)]
    powers = [
        _dense(operands[f"power{k}"]) * scale for k, scale in zip(numbers, scales, strict=True)
    ]
    power = row_powers(np.stack(powers, axis=1))[:, None]
    added = [x.copy() for x in arrays(operands, *operands.keys() & {"added"})]
    total = np.zeros((1, 1), np.float32)
    for k, w, scale in zip(numbers, weights, scales, strict=True):
        assert isinstance(w, Ternary)
        halves = (_dense(operands[f"x{k}"]) * (scale / power)).astype(np.float16)
        total = total + halves.astype(np.float32) @ w.dense(np.float32)
    total = total * power
    for k in numbers:
        if f"low{k}" in operands:
            low, b = arrays(operands, f"low{k}", f"b{k}")
            total = total + low @ b
    assign(operands["y"], sum(added, start=total))


RULES: dict[str, Rule] = {
    "ternary_matmul": _ternary_matmul,
    "ternary_matmul_t": _ternary_matmul_t,
    "matmul": _matmul,
    "contract_rows": _contract_rows,
}

_ON_CODES = (
    "ternary_matmul",
    "ternary_matmul_dot",
    "ternary_matmul_cm",
)

MEANINGS: dict[str, Meaning] = {
    **{name: _finished(of_op("ternary_matmul", name)[1]) for name in _ON_CODES},
    "ternary_matmul_f32": _finished(_by_parts(_times_transposed)),
    "ternary_matmul_t": _finished(_by_parts(_times), across=True),
    "row_power": _row_power,
    "ternary_matmul_t_cm": _on_units,
    "matmul": _by_parts(_times),
    "matmul_f16": _by_parts(_times),
    "matmul_t": _by_parts(_times_transposed),
    "matmul_t_f16": _by_parts(_times_transposed),
    "matvec": _by_parts(_times_transposed),
    "matvec_f16": _by_parts(_times_transposed),
    "contract_rows": _by_parts(_transposed_times),
    "sum_parts": _sum_parts_meaning,
}
