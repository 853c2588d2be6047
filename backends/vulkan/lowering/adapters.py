"""Rules for the fused patterns around adapted projections, and meanings of the narrow products."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ....graph.ir import Node, Value
from ....graph.ops import op_def
from ....graph.ops.fused import expanded
from ....graph.tensors import HostValue
from ....graph.types import DType
from ....passes.fuse.products import Low, Through, low_of, through_products
from ....passes.fuse.projections import FEW_ROWS
from ..limits import Limits
from ..variants import with_members
from .calls import Lowering, Meaning, Rule, fused_rule, groups_for, reducing_workgroup
from .linear import (
    Extras,
    rotates,
    ternary_product,
)
from .meanings import arrays
from .ternary_gradients import Backward, ternary_products_t

_TILE = 16
"""Rows and columns of a tile of thin.glsl."""


def _low_products(lowering: Lowering, node: Node) -> None:
    nodes = expanded(node)
    made = {value.name: inner for inner in nodes for value in inner.outputs}
    lows = [low for inner in nodes if (low := low_of(inner, made)) is not None]
    if not all(_binds(lowering, low.x, low.weight) for low in lows):
        lowering.lower_apart(node)
        return
    most = lowering.limits.bindings // 3
    for begin in range(0, len(lows), most):
        _thin_matmul(lowering, lows[begin : begin + most])


def _product(lowering: Lowering, node: Node) -> None:
    nodes = expanded(node)
    made = {value for inner in nodes for value in inner.outputs}
    product = next(inner for inner in nodes if inner.op == "ternary_matmul")
    up = next((inner for inner in nodes if inner.op == "matmul"), None)
    low, weight = (None, None) if up is None else up.inputs
    x, w = product.inputs
    if w.type.dtype is not DType.T2:
        lowering.lower_apart(node)
        return
    extras = Extras(low, weight, _taken_in(nodes, made))
    *_, last = nodes
    if last.op == "rope" and rotates(lowering, x, w, last):
        extras = replace(extras, table=last.inputs[1])
        ternary_product(lowering, x, w, last.outputs[0], extras)
        return
    rotation = tuple(inner for inner in nodes if inner.op in ("reshape", "rope"))
    y = rotation[0].inputs[0] if rotation else node.outputs[0]
    ternary_product(lowering, x, w, y, extras)
    for inner in rotation:
        lowering.lower(inner)


def _product_gradients(lowering: Lowering, node: Node) -> None:
    nodes = expanded(node)
    made = {value.name: inner for inner in nodes for value in inner.outputs}
    members = through_products(nodes, made)
    assert members is not None, "the pattern's finder sees to that"
    if any(member.product.inputs[1].type.dtype is not DType.T2 for member in members):
        lowering.lower_apart(node)
        return
    _narrow(lowering, members, made)
    (result,) = (value for value in node.outputs if made[value.name].op == "add")
    terms: list[Backward] = []
    for member in members:
        x, w = member.product.inputs
        low = None if member.low is None else member.low.result
        terms.append(Backward(x, w, low, member.weight))
    added = _taken_in(nodes, {value for inner in nodes for value in inner.outputs})
    ternary_products_t(lowering, terms, result, added)


def _taken_in(nodes: Sequence[Node], made: set[Value]) -> Value | None:
    """What the sums of a group add that is not made in it."""
    summed = (value for inner in nodes if inner.op == "add" for value in inner.inputs)
    return next((value for value in summed if value not in made), None)


def _narrow(lowering: Lowering, members: Sequence[Through], made: Mapping[str, Node]) -> None:
    """Multiply cotangents with B."""
    alike: dict[object, list[Low]] = {}
    for low in (member.low for member in members if member.low is not None):
        if _binds(lowering, low.x, low.weight):
            alike.setdefault((low.factor, low.result.type), []).append(low)
            continue
        lowering.lower(low.product)
        lowering.lower(made[low.result.name])
    for lows in alike.values():
        most = lowering.limits.bindings // 3
        for begin in range(0, len(lows), most):
            _thin_matmul(lowering, lows[begin : begin + most])


def _binds(lowering: Lowering, *values: Value) -> bool:
    return all(value.type.nbytes <= lowering.limits.max_range for value in values)


def _thin_matmul(lowering: Lowering, lows: Sequence[Low]) -> None:
    """Narrow products of one factor and one result type."""
    rows, columns = lows[0].result.type.shape
    across = not lows[0].product.attributes["transpose_b"]
    if rows <= FEW_ROWS and not across:
        _thin_matvec(lowering, lows)
        return
    kernel, lanes = f"thin_matmul{'+across' * across}", _lanes(lowering)
    groups = math.ceil(rows / _TILE) * math.ceil(columns / _TILE) * len(lows)
    constants: dict[str, int | float] = {"ROWS": rows, "COLUMNS": columns, **lanes}
    constants["FACTOR"] = lows[0].factor
    operands: dict[str, Value] = {}
    for number, low in enumerate(lows):
        named = {"a": low.x, "b": low.weight, "y": low.result}
        operands |= {f"{name}{number}": value for name, value in named.items()}
        constants[f"INNER{number}"] = low.x.type.shape[1]
    kernel = with_members(kernel, len(lows))
    lowering.call(kernel, groups_for(groups, 1, lowering.limits), constants, **operands)


def thin_products(lowering: Lowering, lows: Sequence[Low], norm: Node) -> None:
    """Narrow products of few rows of a norm, which is taken on the way."""
    alike: dict[object, list[Low]] = {}
    for low in lows:
        alike.setdefault((low.factor, low.result.type), []).append(low)
    most = (lowering.limits.bindings - 2) // 2
    for some in alike.values():
        for begin in range(0, len(some), most):
            _thin_matvec(lowering, some[begin : begin + most], norm)


def _thin_matvec(lowering: Lowering, lows: Sequence[Low], norm: Node | None = None) -> None:
    """Narrow products of few rows, a workgroup for each column."""
    rows, columns = lows[0].result.type.shape
    quads = math.ceil(max(low.x.type.shape[1] for low in lows) / 4)
    constants: dict[str, int | float] = {"ROWS": rows, "COLUMNS": columns}
    constants |= {"WORKGROUP": reducing_workgroup(quads, lowering.limits)}
    constants["FACTOR"] = lows[0].factor
    operands: dict[str, Value] = {}
    kernel = "thin_matvec"
    if norm is not None:
        kernel, constants["EPS"] = "thin_matvec+normed", norm.attributes["eps"]
        operands = dict(zip(("x", "norm"), norm.inputs, strict=True))
    for number, low in enumerate(lows):
        named = {"b": low.weight, "y": low.result}
        if norm is None:
            named["a"] = low.x
        operands |= {f"{name}{number}": value for name, value in named.items()}
        constants[f"INNER{number}"] = low.x.type.shape[1]
    groups = groups_for(len(lows) * columns, 1, lowering.limits)
    lowering.call(with_members(kernel, len(lows)), groups, constants, **operands)


def _weight_gradients(lowering: Lowering, node: Node) -> None:
    alike: dict[int, list[Node]] = {}
    for inner in expanded(node):
        if _binds(lowering, *inner.inputs, *inner.outputs):
            alike.setdefault(inner.inputs[0].type.shape[0], []).append(inner)
        else:
            lowering.lower(inner)
    most = lowering.limits.bindings // 3
    for nodes in alike.values():
        for begin in range(0, len(nodes), most):
            _thin_contract(lowering, nodes[begin : begin + most])


def _thin_contract(lowering: Lowering, nodes: Sequence[Node]) -> None:
    constants = {"INNER": nodes[0].inputs[0].type.shape[0], **_lanes(lowering)}
    operands: dict[str, Value] = {}
    tiles = 0
    for number, node in enumerate(nodes):
        named = dict(zip("aby", (*node.inputs, *node.outputs), strict=True))
        operands |= {f"{name}{number}": value for name, value in named.items()}
        rows, columns = node.outputs[0].type.shape
        constants |= {f"ROWS{number}": rows, f"COLUMNS{number}": columns}
        tiles += math.ceil(rows / _TILE) * math.ceil(columns / _TILE)
    groups = groups_for(tiles, 1, lowering.limits)
    lowering.call(with_members("thin_contract", len(nodes)), groups, constants, **operands)


def _lanes(lowering: Lowering) -> dict[str, int | float]:
    """Threads that share a square of sums: as many as the device has room for."""
    lanes = next((lanes for lanes in (32, 16) if _fits(lanes, lowering.limits)), 8)
    return {"LANES": lanes, "WORKGROUP": 16 * lanes}


def _fits(lanes: int, limits: Limits) -> bool:
    """Whether thin.glsl's shared sums and threads are within the limits."""
    return 4 * _TILE**2 * (lanes + 1) <= limits.shared_memory and 16 * lanes <= limits.invocations


def _thin_matmul_meaning(across: bool) -> Meaning:
    def meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        for number in range(sum(name.startswith("a") for name in operands)):
            a, b, y = arrays(operands, f"a{number}", f"b{number}", f"y{number}")
            y[...] = a @ (b if across else b.T) * a.dtype.type(constants["FACTOR"])

    return meaning


def _thin_matvec_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    for number in range(sum(name.startswith("b") for name in operands)):
        b, y = arrays(operands, f"b{number}", f"y{number}")
        if "norm" in operands:
            x, weight = arrays(operands, "x", "norm")
            a = op_def("rms_norm").eval(x, weight, eps=float(constants["EPS"]))
            assert isinstance(a, np.ndarray)
        else:
            (a,) = arrays(operands, f"a{number}")
        y[...] = a @ b.T * np.float32(constants["FACTOR"])


def _thin_contract_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    for number in range(len(operands) // 3):
        a, b, y = arrays(operands, f"a{number}", f"b{number}", f"y{number}")
        y[...] = a.T @ b


RULES: dict[str, Rule] = {
    fused_rule("low_products"): _low_products,
    fused_rule("product"): _product,
    fused_rule("product_gradients"): _product_gradients,
    fused_rule("weight_gradients"): _weight_gradients,
}
MEANINGS: dict[str, Meaning] = {
    "thin_matvec": _thin_matvec_meaning,
    "thin_matmul": _thin_matmul_meaning(across=False),
    "thin_matmul+across": _thin_matmul_meaning(across=True),
    "thin_contract": _thin_contract_meaning,
}
