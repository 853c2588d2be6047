"""Rules for the fused patterns around adapted projections, and meanings of the narrow products."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ....graph.ir import Node, Value
from ....graph.ops import op_def
from ....graph.ops.fused import expanded
from ....graph.tensors import HostValue
from ....graph.types import DType, tensor
from ....passes.fuse.products import Low, Through, low_of, taken_in, through_products
from ....passes.fuse.projections import FEW_ROWS
from ..limits import Limits
from ..variants import with_members
from .calls import Lowering, Meaning, Rule, fused_rule, groups_for, reducing_workgroup
from .meanings import arrays
from .ternary_gradients import Backward, ternary_products_t
from .tiles import WORKGROUP

_TILE = 16
"""Lines of the narrow side that a tile of thin.glsl has."""
_MATMUL_SHAPES = ((8, 4, 256), (4, 4, 512))
"""Of thin_matmul: EACH, CELLS and threads; high tiles first, which read b less often."""
_TILES_WANTED = 128
"""Tiles of thin_matmul that keep a large device busy."""
_CONTRACT_SHAPE = (8, 32, 256)
"""The same of thin_contract."""
_CONTRACT_WIDE, _CONTRACT_STEP = 64, 4
"""Lines of the wide side of its tiles, and items of the inner axis that a thread reads at once."""
_PARTS_WANTED = 1024
"""Tiles of thin_contract, times parts of the inner axis: so many that the last do not matter."""
_STEPS_WANTED = 4
"""Steps along the inner axis that make a part worth its second stage."""


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
    added = taken_in(nodes)
    ternary_products_t(lowering, terms, result, added)


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
    tiles = math.ceil(columns / _TILE) * len(lows)
    kernel = f"thin_matmul{'+across' * across}"
    sizes = _matmul_sizes(rows, tiles, lowering.limits)
    groups = math.ceil(rows / sizes["EACH"]) * tiles
    constants: dict[str, int | float] = {"ROWS": rows, "COLUMNS": columns, **sizes}
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
    results = [node.outputs[0] for node in nodes]
    inner = nodes[0].inputs[0].type.shape[0]
    sizes = _sizes(*_CONTRACT_SHAPE, lowering.limits)
    del sizes["EACH"]  # fixed by the kernel
    tiles = [_contract_tiles(y) for y in results]
    most = lowering.limits.max_range // max(y.type.nbytes for y in results)
    parts = min(_contract_parts(sum(tiles), inner // (_CONTRACT_STEP * sizes["LANES"])), most)
    targets = results
    if parts > 1:
        targets = [lowering.scratch(tensor("f32", parts, *y.type.shape)) for y in results]
    constants = {"INNER": inner, "PARTS": parts, **sizes}
    operands: dict[str, Value] = {}
    for number, (node, target) in enumerate(zip(nodes, targets, strict=True)):
        named = dict(zip("aby", (*node.inputs, target), strict=True))
        operands |= {f"{name}{number}": value for name, value in named.items()}
        rows, columns = node.outputs[0].type.shape
        constants |= {f"ROWS{number}": rows, f"COLUMNS{number}": columns}
    groups = groups_for(max(tiles) * parts * len(nodes), 1, lowering.limits)
    lowering.call(with_members("thin_contract", len(nodes)), groups, constants, **operands)
    if parts > 1:
        _thin_sum(lowering, targets, results)


def _contract_tiles(y: Value) -> int:
    """Tiles of thin_contract for a result."""
    shape = y.type.shape
    return math.ceil(max(shape) / _CONTRACT_WIDE) * math.ceil(min(shape) / _TILE)


def _contract_parts(tiles: int, steps: int) -> int:
    """Into how many parts thin_contract splits the inner axis of so many steps."""
    return max(1, min(math.ceil(_PARTS_WANTED / tiles), steps // _STEPS_WANTED))


def _thin_sum(lowering: Lowering, parts: Sequence[Value], results: Sequence[Value]) -> None:
    """Each result is the sum along the first axis of its parts."""
    constants = {"PARTS": parts[0].type.shape[0], "WORKGROUP": WORKGROUP}
    operands: dict[str, Value] = {}
    for number, (x, y) in enumerate(zip(parts, results, strict=True)):
        operands |= {f"x{number}": x, f"y{number}": y}
        constants[f"SIZE{number}"] = y.type.size
    quads = sum(math.ceil(y.type.size / 4) for y in results)
    groups = groups_for(quads, WORKGROUP, lowering.limits)
    lowering.call(with_members("thin_sum", len(results)), groups, constants, **operands)


def _matmul_sizes(rows: int, tiles: int, limits: Limits) -> dict[str, int]:
    """Constants of thin_matmul, for so many tiles of a row: high tiles, if they are enough."""
    busy = (s for s in _MATMUL_SHAPES if math.ceil(rows / s[0]) * tiles >= _TILES_WANTED)
    return _sizes(*next(busy, _MATMUL_SHAPES[-1]), limits)


def _sizes(each: int, cells: int, threads: int, limits: Limits) -> dict[str, int]:
    """Constants of thin.glsl, for as many threads as its shared sums leave room for."""
    while 8 * threads * each > limits.shared_memory or threads > limits.invocations:
        threads //= 2
    return {"EACH": each, "LANES": threads // cells, "WORKGROUP": threads}


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
    parts, step = int(constants["PARTS"]), _CONTRACT_STEP * int(constants["LANES"])
    part = math.ceil(int(constants["INNER"]) / (parts * step)) * step
    for number in range(len(operands) // 3):
        a, b, y = arrays(operands, f"a{number}", f"b{number}", f"y{number}")
        for k, target in enumerate(y.reshape(parts, a.shape[1], b.shape[1])):
            some = slice(k * part, (k + 1) * part)
            target[...] = a[some].T @ b[some]


def _thin_sum_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    for number in range(len(operands) // 2):
        x, y = arrays(operands, f"x{number}", f"y{number}")
        y[...] = x.sum(axis=0).reshape(y.shape)


RULES: dict[str, Rule] = {
    fused_rule("low_products"): _low_products,
    fused_rule("product_gradients"): _product_gradients,
    fused_rule("weight_gradients"): _weight_gradients,
}
MEANINGS: dict[str, Meaning] = {
    "thin_matvec": _thin_matvec_meaning,
    "thin_matmul": _thin_matmul_meaning(across=False),
    "thin_matmul+across": _thin_matmul_meaning(across=True),
    "thin_contract": _thin_contract_meaning,
    "thin_sum": _thin_sum_meaning,
}
