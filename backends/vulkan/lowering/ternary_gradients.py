"""Rules and meanings of the kernels for gradients through ternary weights: dx = dy w."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....graph.ir import Node, Value
from ....graph.tensors import GROUP, Array, HostValue, Ternary
from ....graph.types import DType, tensor
from ....passes.fuse.projections import FEW_ROWS
from ..layout import assign
from ..variants import with_members
from . import panels
from .calls import Lowering, Meaning, Rule, groups_for, is_large, reducing_workgroup
from .linear import (
    Extras,
    dense,
    finish_product,
    plain_matmul,
    tiled_product,
)
from .meanings import arrays, row_powers
from .shares import call_shared, least_share, places_of, share_for, shared_meaning
from .tiles import LARGE_TILE, MOST_RANK, unit_tile_for

_DEPTH = 32
"""Values of the inner axis that a step on matrix units takes."""

_MOST_OF_TWO = 16384
"""Values of a row, two of which a workgroup of row_halves can keep in registers."""

_LOW_SHARE = np.float32(2.0**-14)
"""What a row is divided by is not below this part of what its adapters multiply."""


@dataclass(frozen=True)
class Backward:
    """One term of a sum of products with ternary weights: x w, and low A where it has an adapter.

    Attributes:
        x, w: the factors.
        low, weight: of the adapter.
    """

    x: Value
    w: Value
    low: Value | None = None
    weight: Value | None = None


def _ternary_matmul_t(lowering: Lowering, node: Node) -> None:
    x, w = node.inputs
    if w.type.dtype is not DType.T2:
        plain_matmul(lowering, x, w, node.outputs[0])
        return
    ternary_products_t(lowering, (Backward(x, w),), node.outputs[0])


def _takes_halves(lowering: Lowering, x: Value, w: Value) -> bool:
    """Whether x w is for matrix units."""
    (rows, inner), columns = x.type.shape, w.type.shape[1]
    if "cooperative_matrix_f16" not in lowering.limits.features:
        return False
    if inner % _DEPTH or columns % GROUP or rows <= FEW_ROWS:
        return False
    return unit_tile_for(rows, columns, lowering.limits) is not None


def ternary_products_t(
    lowering: Lowering, terms: Sequence[Backward], y: Value, added: Value | None = None
) -> None:
    """Y = the sum of all terms, and `added`; in as few dispatches as may be."""
    parts = _dispatched_together(lowering, terms)
    for number, some in enumerate(parts):
        target = y if number == len(parts) - 1 else lowering.scratch(y.type)
        if _takes_halves(lowering, some[0].x, some[0].w):
            _ternary_units_t(lowering, some, target, added)
        else:
            (term,) = some
            extras = Extras(term.low, term.weight, added)
            sizes, factors = (*term.x.type.shape, y.type.shape[1]), {"x": term.x, "w": term.w}
            tiled_product(lowering, "ternary_matmul_t", sizes, factors, target, extras=extras)
        added = target


def _dispatched_together(lowering: Lowering, terms: Sequence[Backward]) -> list[Sequence[Backward]]:
    """The terms by what one dispatch adds up: on matrix units as many as it binds."""
    on_units = [term for term in terms if _takes_halves(lowering, term.x, term.w)]
    parts: list[Sequence[Backward]] = [(term,) for term in terms if term not in on_units]
    for has_low, each in ((True, 3), (False, 2)):
        some = [term for term in on_units if (term.low is not None) == has_low]
        most = max(1, (lowering.limits.bindings - 5) // each)
        parts += [some[begin : begin + most] for begin in range(0, len(some), most)]
    return parts


def _ternary_units_t(
    lowering: Lowering, terms: Sequence[Backward], y: Value, added: Value | None
) -> None:
    rows, columns = y.type.shape
    inner = sum(term.x.type.shape[1] for term in terms)
    extras = Extras(terms[0].low, terms[0].weight, added)
    operands: dict[str, Value] = {"y": y} if added is None else {"y": y, "added": added}
    for number, term in enumerate(terms):
        if term.low is not None and term.weight is not None:
            operands |= {f"low{number}": term.low, f"b{number}": term.weight}
    members = with_members("", len(terms) if extras.low is not None else 1)
    sizes = rows, inner, columns
    ways = ["halves_product_nv"] * _takes_large_matrices(lowering, sizes)
    ways += ["ternary_matmul_t_cm"]
    if lowering.choose("ternary_matmul_t", sizes, ways) == "halves_product_nv":
        _by_large_matrices(lowering, terms, extras, operands)
        return
    share = share_for(rows, columns, inner // _DEPTH, lowering.limits)
    assert share is not None, "the caller has asked whether a tile fits"
    high, joined = panels.padded(rows), "+joined" * _joins(terms)
    kernel = f"row_halves+panels{joined}"
    operands["h"], operands["top"] = _row_halves(lowering, terms, high, kernel)
    operands["ws"] = panels.of_weights_t(lowering, [term.w for term in terms])
    constants = {"ROWS": rows, "HIGH": high, "COLUMNS": columns, "INNER": inner}
    constants |= {"GROUPS": columns // GROUP, **extras.constants}
    kernel = f"ternary_matmul_t_cm{extras.options}"
    call_shared(lowering, kernel, share, constants, operands, members, joined)


def _joins(terms: Sequence[Backward]) -> bool:
    """Whether the adapters' parts are for matrix units too."""
    low = terms[0].low
    return low is not None and low.type.shape[1] <= MOST_RANK


def _takes_large_matrices(lowering: Lowering, sizes: tuple[int, int, int]) -> bool:
    """Whether matrices as large as a workgroup can have a product, once its rows are padded.

    It must be one that is timed, and by that tried, at its first use: drivers differ in which of
    these matrices they have.
    """
    _, inner, columns = sizes
    fits = inner % _DEPTH == 0 and columns % LARGE_TILE.columns == 0
    return fits and is_large(sizes) and "cooperative_matrix2_f16" in lowering.limits.features


def _by_large_matrices(
    lowering: Lowering, terms: Sequence[Backward], extras: Extras, operands: Mapping[str, Value]
) -> None:
    """A sum of products by halves_product_nv: weights as f16, product, and what is added to it."""
    rows, columns = operands["y"].type.shape
    high = math.ceil(rows / LARGE_TILE.rows) * LARGE_TILE.rows
    halves, top = _row_halves(lowering, terms, high, "row_halves")
    weights = _ternary_halves(lowering, terms)
    inner = halves.type.shape[1]
    share = least_share(high, columns, inner // _DEPTH, (LARGE_TILE,), lowering.limits)
    product = lowering.scratch(tensor("f32", high, columns))
    units = max(1, share.units)
    parts = lowering.scratch(tensor("f32", units, LARGE_TILE.rows, LARGE_TILE.columns))
    shared = {"WHOLE": share.whole, "PARTS": share.parts, "UNITS": units}
    sizes = {"ROWS": high, "INNER": inner, "COLUMNS": columns, **LARGE_TILE.constants, **shared}
    groups = groups_for(share.whole + share.units, 1, lowering.limits)
    lowering.call("halves_product_nv", groups, sizes, h=halves, e=weights, y=product, parts=parts)
    kernel = f"halves_finish{extras.options}"
    if extras.low is not None:
        kernel = with_members(kernel, len(terms))
    tile = {"TILE_M": LARGE_TILE.rows, "TILE_N": LARGE_TILE.columns}
    sizes = {"ROWS": rows, "HIGH": high, "COLUMNS": columns, **tile, **shared, **extras.constants}
    groups = groups_for(math.ceil(rows / 4) * columns // 4, 256, lowering.limits)
    found = {"product": product, "parts": parts, "top": top}
    lowering.call(kernel, groups, sizes, **operands, **found)


def _ternary_halves(lowering: Lowering, terms: Sequence[Backward]) -> Value:
    """The weights of all terms below each other as f16."""
    inner, columns = (sum(t.w.type.shape[0] for t in terms), terms[0].w.type.shape[1])
    halves = lowering.scratch(tensor("f16", inner, columns))
    constants = {"INNER": inner, "COLUMNS": columns}
    operands = {"y": halves}
    for number, term in enumerate(terms):
        constants[f"INNER{number}"] = term.w.type.shape[0]
        operands[f"w{number}"] = term.w
    kernel = with_members("ternary_halves", len(terms))
    groups = groups_for(inner * columns // 32, 256, lowering.limits)
    lowering.call(kernel, groups, constants, **operands)
    return halves


def _row_halves(
    lowering: Lowering, terms: Sequence[Backward], high: int, kernel: str
) -> tuple[Value, Value]:
    """The x of all terms side by side as f16, and what each row was divided by.

    There are `high` rows; those that no x has are zero.
    """
    rows, columns = terms[0].x.type.shape[0], terms[0].w.type.shape[1]
    inner = sum(term.x.type.shape[1] for term in terms)
    halves, top = (
        lowering.scratch(tensor("f16", high, inner)),
        lowering.scratch(tensor("f32", rows)),
    )
    constants = {"ROWS": rows, "HIGH": high, "INNER": inner, "COLUMNS": columns}
    constants["WORKGROUP"] = reducing_workgroup(inner // 4, lowering.limits)
    constants["TOGETHER"] = 2 if high % 2 == 0 and inner <= _MOST_OF_TWO else 1
    operands = {"y": halves, "top": top}
    for number, term in enumerate(terms):
        constants[f"INNER{number}"] = term.x.type.shape[1]
        operands |= {f"x{number}": term.x, f"w{number}": term.w}
        if "+joined" in kernel and term.low is not None:
            operands[f"low{number}"], constants["RANK"] = term.low, term.low.type.shape[1]
    kernel = with_members(kernel, len(terms))
    groups = groups_for(high // constants["TOGETHER"], 1, lowering.limits)
    lowering.call(kernel, groups, constants, **operands)
    return halves, top


def _halves_product(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> Array:
    """What ternary_matmul_t_cm computes before anything is added."""
    h, top, ws, y = arrays(operands, "h", "top", "ws", "y")
    halves = panels.from_panels(h)[: len(top)].astype(np.float32)
    packed = panels.weights_from_t(ws).reshape(-1)
    weights = Ternary(packed, 1, (h.shape[1], y.shape[1]))
    product: Array = halves @ weights.dense(np.float32) * top[:, None]
    return product


def _row_halves_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    weights = _weights_of(operands)
    factors = [dense(operands[f"x{k}"]) * np.float32(w.scale) for k, w in enumerate(weights)]
    x = np.concatenate(factors, axis=1)
    lows = arrays(operands, *(name for name in operands if name.startswith("low")))
    top = row_powers(np.concatenate([x, *(low * _LOW_SHARE for low in lows)], axis=1))
    (y,) = arrays(operands, "y")
    y[...] = 0
    y[: len(x)] = x / top[:, None]
    assign(operands["top"], top)


def _halves_in_panels_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    _row_halves_meaning(constants, operands)
    (y,) = arrays(operands, "y")
    y[...] = panels.into_panels(y)


def _ternary_halves_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    weights = [w.dense(np.float16) for w in _weights_of(operands)]
    assign(operands["y"], np.concatenate(weights))


def _large_product_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    h, e, y, parts = arrays(operands, "h", "e", "y", "parts")
    whole, rest = places_of(constants, y)
    product = h.astype(np.float32) @ e.astype(np.float32)
    for place in whole:
        y[place] = product[place]
    parts[...] = 0
    for place, unit in zip(rest, parts[:: int(constants["PARTS"])], strict=False):
        unit[...] = product[place]


def _large_finish_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    y, product, parts, top = arrays(operands, "y", "product", "parts", "top")
    _, rest = places_of(constants, product)
    total = product.copy()
    for number, place in enumerate(rest):
        first = number * int(constants["PARTS"])
        total[place] = parts[first : first + int(constants["PARTS"])].sum(axis=0)
    y[...] = _finish_halves(total[: len(y)] * top[:, None], constants, operands)


def _weights_of(operands: Mapping[str, HostValue]) -> list[Ternary]:
    numbered = sorted(name for name in operands if name[0] == "w")
    return [w for name in numbered if isinstance(w := operands[name], Ternary)]


def _finish_halves(
    total: Array, constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> Array:
    for k in range(sum(name.startswith("low") for name in operands)):
        low, b = arrays(operands, f"low{k}", f"b{k}")
        total = total + low @ b
    return finish_product(total, constants, operands)


RULES: dict[str, Rule] = {"ternary_matmul_t": _ternary_matmul_t}
MEANINGS: dict[str, Meaning] = {
    "row_halves": _row_halves_meaning,
    "row_halves+panels": _halves_in_panels_meaning,
    "ternary_matmul_t_cm": shared_meaning(_halves_product, _finish_halves),
    "ternary_halves": _ternary_halves_meaning,
    "halves_product_nv": _large_product_meaning,
    "halves_finish": _large_finish_meaning,
}
