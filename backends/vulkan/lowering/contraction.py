"""Gradients of whole weights whose products read int8 codes: the rule, and the kernel's meaning."""

import math
from collections.abc import Mapping

import numpy as np

from ....graph.ir import Node, Value
from ....graph.ops.fused import expanded
from ....graph.tensors import HostValue, Quantized
from ....graph.types import tensor
from ..limits import Limits
from .calls import Lowering, Meaning, Rule, fused_rule, groups_for
from .linear import row_power, sum_parts
from .meanings import arrays
from .tiles import Tile, parts_for, unit_tile_for

_UNIT = 16
"""Rows and columns of a result that matrix units take come in multiples of so many."""
_DEPTH = 32
"""Values of the inner axis that contract_codes_cm takes at once."""
_HALVES_TOP = 2.0**12
"""Times what contract_codes_cm takes f16 of the power of two."""


def _code_gradients(lowering: Lowering, node: Node) -> None:
    dequantize, *contractions = expanded(node)
    (codes,) = dequantize.inputs
    floats_wanted = []
    for contraction in contractions:
        dy, (y,) = contraction.inputs[0], contraction.outputs
        tile = _tile(lowering.limits, codes, y)
        if tile is None:
            floats_wanted.append(contraction)
        else:
            _on_units(lowering, tile, dy, codes, y)
    for inner in (dequantize, *floats_wanted) if floats_wanted else ():
        lowering.lower(inner)


def _tile(limits: Limits, codes: Value, y: Value) -> Tile | None:
    """The tile for matrix units, or None if they do not fit."""
    rows, columns = y.type.shape
    if "cooperative_matrix_f16" not in limits.features or rows % _UNIT or columns % _UNIT:
        return None
    return unit_tile_for(rows, columns, limits, codes.type.shape[0])


def _on_units(lowering: Lowering, tile: Tile, dy: Value, codes: Value, y: Value) -> None:
    (lines, rows), columns = dy.type.shape, codes.type.shape[1]
    tiles = tile.count(rows, columns)
    parts = parts_for(tiles, lines)
    target = y if parts == 1 else lowering.scratch(tensor("f32", parts, rows, columns))
    sizes = {"LINES": lines, "ROWS": rows, "COLUMNS": columns, "PARTS": parts}
    groups = groups_for(tiles * parts, 1, lowering.limits)
    operands = {"dy": dy, "power": row_power(lowering, dy), "x": codes, "y": target}
    lowering.call("contract_codes_cm", groups, {**sizes, **tile.constants}, **operands)
    if parts > 1:
        sum_parts(lowering, target, y)


def _contract_codes_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    dy, power, y = arrays(operands, "dy", "power", "y")
    x = operands["x"]
    assert isinstance(x, Quantized)
    parts = y.reshape(-1, dy.shape[1], x.codes.shape[1])
    run = math.ceil(math.ceil(len(dy) / _DEPTH) / len(parts)) * _DEPTH
    for part, target in enumerate(parts):
        some = slice(part * run, (part + 1) * run)
        target[...] = 0
        if dy[some].size:
            scale = x.scale[some]
            _, exponent = np.frexp(np.max(power[some] / scale[:, 0]))
            top = np.ldexp(np.float32(1), np.clip(exponent - 1, 16 - 127, 253 - 127))
            halves = (dy[some] * (np.float32(_HALVES_TOP) / top) / scale).astype(np.float16)
            sums = halves.astype(np.float32).T @ x.codes[some].astype(np.float32)
            target[...] = sums * (top / np.float32(_HALVES_TOP))


RULES: dict[str, Rule] = {fused_rule("code_gradients"): _code_gradients}
MEANINGS: dict[str, Meaning] = {"contract_codes_cm": _contract_codes_meaning}
