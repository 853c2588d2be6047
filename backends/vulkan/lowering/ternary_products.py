"""Rules and meanings of the kernels for products with ternary weights: y = x w^T."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....graph.ir import Node, Value
from ....graph.ops import op_def
from ....graph.tensors import GROUP, Array, HostValue, Quantized, Ternary
from ....graph.types import DType, tensor
from ....passes.fuse.products import Products, taken_in, with_rest
from ....passes.fuse.projections import FEW_ROWS
from ....passes.fuse.view import View
from ..variants import with_members
from . import panels
from .calls import Lowering, Meaning, Rule, fused_rule, groups_for
from .linear import NOTHING, Extras, finish_product, matmul_across, tiled_product
from .matvec import Around, Member, is_matvec, ternary_matvec
from .meanings import arrays
from .quantize import dequantize
from .shares import Share, call_shared, share_for, shared_meaning
from .tiles import MOST_RANK, SUBGROUP, Tile, tile_for

_DEPTH = 64
"""Values of the inner axis that a step of ternary_matmul_cm takes."""
_LINE_BYTES, _STRIP_BYTES = 80, 16 * 36 * 4
"""Shared memory of such a part for each row and column, and of the sums that a subgroup stores."""


@dataclass(frozen=True)
class Projection:
    """One of several products of the same x: y = x w^T and what is added to it."""

    w: Value
    y: Value
    extras: Extras = NOTHING


def _ternary_matmul(lowering: Lowering, node: Node) -> None:
    x, w = node.inputs
    (y,) = node.outputs
    if w.type.dtype is DType.T2:
        _ternary_product(lowering, x, Projection(w, y))
        return
    if x.type.dtype is DType.Q8:
        codes, x = x, lowering.scratch(tensor("f32", *x.type.shape))
        dequantize(lowering, codes, x)
    matmul_across(lowering, x, w, y)


def _products(lowering: Lowering, node: Node) -> None:
    view = View.inside(node)
    products = [inner for inner in view.graph.nodes if inner.op == "ternary_matmul"]
    if any(product.inputs[1].type.dtype is not DType.T2 for product in products):
        lowering.lower_apart(node)
        return
    x = products[0].inputs[0]
    found = [_projection(lowering, with_rest(view, product)) for product in products]
    for some in _dispatched_together(lowering, x, [projection for projection, _ in found]):
        if len(some) > 1:
            _on_units(lowering, x, some)
        else:
            _ternary_product(lowering, x, some[0])
    for _, rotation in found:
        for inner in rotation:
            lowering.lower(inner)


def _projection(lowering: Lowering, nodes: Sequence[Node]) -> tuple[Projection, Sequence[Node]]:
    """What a product's kernel does of some nodes, and those that are left."""
    x, w = nodes[0].inputs
    up = next((node for node in nodes if node.op == "matmul"), None)
    low, weight = (None, None) if up is None else up.inputs
    added = taken_in(nodes)
    rotation = [node for node in nodes if node.op in ("reshape", "rope")]
    if rotation and _rotates(lowering, x, w, rotation[-1]):
        (y,), table = rotation[-1].outputs, rotation[-1].inputs[1]
        return Projection(w, y, Extras(low, weight, added, table)), ()
    y = rotation[0].inputs[0] if rotation else nodes[-1].outputs[0]
    return Projection(w, y, Extras(low, weight, added)), rotation


def _dispatched_together(
    lowering: Lowering, x: Value, projections: Sequence[Projection]
) -> Iterator[Sequence[Projection]]:
    """The products by what one dispatch computes: on matrix units as many as it binds.

    Those with a residual come last, as another of them may give it.
    """
    alone: list[Projection] = []
    alike: dict[object, list[Projection]] = {}
    for projection in projections:
        if projection.extras.added is None and _takes_units(lowering, x, projection.w):
            rank = tuple(projection.extras.constants.items())
            alike.setdefault(rank, []).append(projection)
        else:
            alone.append(projection)
    for some in alike.values():
        each = 2 if some[0].extras.low is None else 4
        most = max(1, (lowering.limits.bindings - 5) // each)
        for begin in range(0, len(some), most):
            members = some[begin : begin + most]
            if _is_of_whole_tiles(lowering, x, members):
                yield members
            else:
                alone = [*members, *alone]
    yield from ([projection] for projection in alone)


def _is_of_whole_tiles(lowering: Lowering, x: Value, members: Sequence[Projection]) -> bool:
    """Whether each tile belongs to one of the members, and they share what they are rotated by."""
    share = _share(lowering, x, *(m.w for m in members))
    assert share is not None, "each of them fits"
    width = share.tile.columns
    tables = {m.extras.table for m in members if m.extras.table is not None}
    heads = all(table.type.shape[1] == width for table in tables)
    return heads and len(tables) <= 1 and all(m.w.type.shape[0] % width == 0 for m in members)


def _ternary_product(lowering: Lowering, x: Value, projection: Projection) -> None:
    """Y = x w^T and what is added to it."""
    w, y, extras = projection.w, projection.y, projection.extras
    sizes = (*x.type.shape, w.type.shape[0])
    if x.type.dtype is not DType.Q8:
        tiled_product(lowering, "ternary_matmul_f32", sizes, {"x": x, "w": w}, y, extras=extras)
    elif is_matvec(x):
        member = Member(w, y, extras.low, extras.weight, turns=extras.table is not None)
        ternary_matvec(lowering, x, [member], Around(added=extras.added, table=extras.table))
    elif _takes_units(lowering, x, w):
        _on_units(lowering, x, [projection])
    else:
        rows, inner, columns = sizes
        tile = tile_for(rows, columns, 1)
        groups = groups_for(tile.count(rows, columns), 1, lowering.limits)
        constants = {"ROWS": rows, "INNER": inner, "COLUMNS": columns, **tile.constants}
        kernel = f"{_way(lowering, x, w)}{extras.options}"
        operands = {"x": x, "w": w, "y": y, **extras.operands}
        lowering.call(kernel, groups, {**constants, **extras.constants}, **operands)


def _on_units(lowering: Lowering, x: Value, members: Sequence[Projection]) -> None:
    """The products of all members by ternary_matmul_cm; see `_dispatched_together`."""
    share = _share(lowering, x, *(m.w for m in members))
    assert share is not None, "the caller has asked whether a tile fits"
    (rows, inner), columns = x.type.shape, sum(m.w.type.shape[0] for m in members)
    constants = {"ROWS": rows, "INNER": inner, "COLUMNS": columns}
    xs, ws = panels.of_codes(lowering, x), panels.of_weights(lowering, [m.w for m in members])
    constants["HIGH"], constants["SIXTEENTHS"], _ = xs.type.shape
    constants["WIDE"], constants["STRIPS"], _ = ws.type.shape
    operands = {"x": x, "xs": xs, "ws": ws}
    tables = [m.extras.table for m in members if m.extras.table is not None]
    for number, member in enumerate(members):
        extras = member.extras
        named = {"w": member.w, "y": member.y, "low": extras.low, "b": extras.weight}
        operands |= {f"{name}{number}": v for name, v in named.items() if v is not None}
        constants[f"COLUMNS{number}"] = member.w.type.shape[0]
        if tables:
            constants[f"TURNS{number}"] = int(extras.table is not None)
    common = Extras(members[0].extras.low, None, members[0].extras.added, next(iter(tables), None))
    around = {"added": common.added, "table": common.table}
    operands |= {name: value for name, value in around.items() if value is not None}
    constants |= common.constants
    halves = "+halves" * _takes_halves(lowering, common.low, share.tile)
    kernel = f"ternary_matmul_cm{common.options}"
    names = with_members("", len(members)), halves
    call_shared(lowering, kernel, share, constants, operands, *names)


def _takes_halves(lowering: Lowering, low: Value | None, tile: Tile) -> bool:
    """Whether an adapter's part of a tile is for matrix units too (low_units.glsl)."""
    if low is None or "cooperative_matrix_f16" not in lowering.limits.features:
        return False
    strips = tile.threads // SUBGROUP * _STRIP_BYTES
    needed = max(strips, _LINE_BYTES * tile.columns) + _LINE_BYTES * tile.rows + 4 * tile.columns
    return low.type.shape[1] <= MOST_RANK and needed <= lowering.limits.shared_memory


def _way(lowering: Lowering, x: Value, w: Value) -> str:
    """The kernel for x w^T of int8 activations."""
    (rows, inner), columns = x.type.shape, w.type.shape[0]
    ways = ["ternary_matmul_cm"] * (_share(lowering, x, w) is not None)
    ways += ["ternary_matmul_dot"] * ("integer_dot_product" in lowering.limits.features)
    ways += ["ternary_matmul"] * (not ways)
    way = lowering.choose("ternary_matmul", (rows, inner, columns), ways)
    assert way is not None, "there is always one"
    return way


def _takes_units(lowering: Lowering, x: Value, w: Value) -> bool:
    """Whether x w^T is for matrix units."""
    return _share(lowering, x, w) is not None and _way(lowering, x, w) == "ternary_matmul_cm"


def _share(lowering: Lowering, x: Value, *weights: Value) -> Share | None:
    """The tiles of x w^T for some w side by side on matrix units, or None if they do not fit."""
    (rows, inner), columns = x.type.shape, sum(w.type.shape[0] for w in weights)
    if "cooperative_matrix_s8" not in lowering.limits.features or x.type.dtype is not DType.Q8:
        return None
    if rows <= FEW_ROWS or inner % GROUP or columns % 4:
        return None
    return share_for(rows, columns, inner // _DEPTH, lowering.limits)


def _rotates(lowering: Lowering, x: Value, w: Value, rope: Node) -> bool:
    """Whether the kernel of x w^T can rotate the heads too.

    On matrix units a tile must be as wide as a head; for few rows any head will do.
    """
    if rope.attributes["inverse"] or x.type.dtype is not DType.Q8:
        return False
    if is_matvec(x):
        return True
    share = _share(lowering, x, w) if _takes_units(lowering, x, w) else None
    shuffles = "subgroup_shuffle" in lowering.limits.features
    return share is not None and shuffles and rope.inputs[0].type.shape[2] == share.tile.columns


def _codes_products(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> Array:
    """What ternary_matmul_cm computes before anything is added, its members side by side."""
    x, (xs, ws) = operands["x"], arrays(operands, "xs", "ws")
    assert isinstance(x, Quantized)
    x = Quantized(panels.codes_from(xs)[: len(x.codes)], x.scale)
    rows, begin = panels.weights_from(ws), 0
    products: list[Array] = []
    for number in range(_members(operands)):
        w = operands[f"w{number}"]
        assert isinstance(w, Ternary)
        packed = rows[begin : begin + w.shape[0]].reshape(-1)
        product = op_def("ternary_matmul").eval(x, Ternary(packed, w.scale, w.shape))
        assert isinstance(product, np.ndarray)
        products.append(product)
        begin += w.shape[0]
    return np.concatenate(products, axis=1)


def _finish_members(
    total: Array, constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> Array:
    finished: list[Array] = []
    for number, part in enumerate(_split(total, constants, _members(operands))):
        own = {f"low{number}": "low", f"b{number}": "b", "added": "added"}
        if constants.get(f"TURNS{number}"):
            own["table"] = "table"
        extras = {name: operands[key] for key, name in own.items() if key in operands}
        finished.append(finish_product(part, constants, extras))
    return np.concatenate(finished, axis=1)


def _members(operands: Mapping[str, HostValue]) -> int:
    return sum(isinstance(x, Ternary) for x in operands.values())


def _split(total: Array, constants: Mapping[str, int | float], members: int) -> list[Array]:
    widths = [int(constants[f"COLUMNS{number}"]) for number in range(members)]
    return np.split(total, np.cumsum(widths)[:-1], axis=1)


def _side_by_side(meaning: Meaning) -> Meaning:
    """The meaning of a kernel that takes its members' results as one."""

    def together(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        members = _members(operands)
        results = arrays(operands, *(f"y{number}" for number in range(members)))
        y = np.concatenate(results, axis=1)
        meaning(constants, {**operands, "y": y})
        for result, part in zip(results, _split(y, constants, members), strict=True):
            result[...] = part

    return together


RULES: dict[str, Rule] = {
    "ternary_matmul": _ternary_matmul,
    fused_rule(Products.name): _products,
}
MEANINGS: dict[str, Meaning] = {
    **panels.MEANINGS,
    "ternary_matmul_cm": _side_by_side(shared_meaning(_codes_products, _finish_members)),
}
