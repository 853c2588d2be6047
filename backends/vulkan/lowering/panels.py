"""Factors of products on matrix units, in the order in which these read them (panels.glsl)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ....graph.ir import Value
from ....graph.tensors import GROUP, Array, Bytes, HostValue, Quantized, Ternary
from ....graph.types import tensor
from ....passes.fuse.projections import FEW_ROWS
from ..variants import with_members
from .calls import Lowering, Meaning, groups_for
from .meanings import arrays

ROWS = 128
"""Rows of a panel, those of the largest tile."""


def padded(rows: int) -> int:
    """Rows of the panels that hold so many."""
    return math.ceil(rows / ROWS) * ROWS


def of_codes(lowering: Lowering, x: Value) -> Value:
    """The codes of x, made once for each x."""
    if x.name not in lowering.panels:
        rows, inner = x.type.shape
        made = room_for_codes(lowering, x)
        high, sixteenths, _ = made.type.shape
        constants = {"ROWS": rows, "INNER": inner, "HIGH": high, "SIXTEENTHS": sixteenths}
        groups = groups_for(high // 32 * sixteenths // 8, 1, lowering.limits)
        lowering.call("code_panels", groups, constants, x=x, y=made)
    return lowering.panels[x.name]


def room_for_codes(lowering: Lowering, x: Value) -> Value:
    """Where the codes of x are to be written."""
    rows, inner = x.type.shape
    made = lowering.scratch(tensor("u32", padded(rows), inner // 16, 4))
    lowering.panels[x.name] = made
    return made


def wanted(lowering: Lowering, x: Value) -> bool:
    """Whether products will ask for the codes of x, as far as its size tells."""
    rows, inner = x.type.shape
    able = "cooperative_matrix_s8" in lowering.limits.features
    return able and rows > FEW_ROWS and inner % GROUP == 0


def of_weights(lowering: Lowering, ws: Sequence[Value]) -> Value:
    """The codes of ternary weights with one inner length, below each other."""
    high, inner = padded(sum(w.type.shape[0] for w in ws)), ws[0].type.shape[1]
    strips = inner // 64
    made = lowering.scratch(tensor("u32", high, strips, 4))
    constants = {"INNER": inner, "HIGH": high, "STRIPS": strips}
    operands = {"y": made}
    for number, w in enumerate(ws):
        constants[f"COLUMNS{number}"] = w.type.shape[0]
        operands[f"w{number}"] = w
    groups = groups_for(high // 32 * math.ceil(strips / 8), 1, lowering.limits)
    lowering.call(with_members("ternary_panels", len(ws)), groups, constants, **operands)
    return made


def of_weights_t(lowering: Lowering, ws: Sequence[Value]) -> Value:
    """The codes of ternary weights with one number of columns, below each other, for dx = dy w."""
    inner, columns = sum(w.type.shape[0] for w in ws), ws[0].type.shape[1]
    made = lowering.scratch(tensor("u32", columns // GROUP, inner, 8))
    constants = {"INNER": inner, "COLUMNS": columns, "GROUPS": columns // GROUP}
    operands = {"y": made}
    for number, w in enumerate(ws):
        constants[f"INNER{number}"] = w.type.shape[0]
        operands[f"w{number}"] = w
    groups = groups_for(inner * columns // 64, 256, lowering.limits)
    lowering.call(with_members("ternary_panels_t", len(ws)), groups, constants, **operands)
    return made


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


def in_panels(x: Quantized, high: int) -> Array:
    """The codes of x for so many rows."""
    codes = np.zeros((high, x.shape[1]), np.int8)
    codes[: len(x.codes)] = x.codes
    ordered = _in_turns(codes, GROUP // 32, 2)
    return into_panels(ordered).view(np.uint32).reshape(high, -1, 4)


def codes_from(xs: Array) -> Array:
    """The codes that `of_codes` was given."""
    return _in_turns(from_panels(xs.reshape(len(xs), -1).view(np.int8)), 2, GROUP // 32)


def weights_from(ws: Array) -> Bytes:
    """The packed rows that `of_weights` was given."""
    return from_panels(ws.reshape(len(ws), -1).view(np.uint8))


def weights_from_t(ws: Array) -> Bytes:
    """The packed rows that `of_weights_t` was given."""
    groups = np.ascontiguousarray(ws).view(np.uint8)
    return groups.swapaxes(0, 1).reshape(groups.shape[1], -1)


def _in_turns(codes: Array, first: int, second: int) -> Array:
    """Sixteen codes at a time, of each group those of a second axis before those of the first."""
    groups = codes.reshape(len(codes), -1, first, second, 16)
    return np.ascontiguousarray(groups.swapaxes(2, 3)).reshape(codes.shape)


def _code_panels(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    x, (y,) = operands["x"], arrays(operands, "y")
    assert isinstance(x, Quantized)
    y[...] = in_panels(x, len(y))


def _packed(operands: Mapping[str, HostValue]) -> Bytes:
    """The bytes of all weights below each other, a row each."""
    weights = [w for w in operands.values() if isinstance(w, Ternary)]
    return np.concatenate([w.packed.reshape(w.shape[0], -1) for w in weights])


def _ternary_panels(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    (y,) = arrays(operands, "y")
    rows = _packed(operands)
    codes = np.zeros((len(y), rows.shape[1]), np.uint8)
    codes[: len(rows)] = rows
    y[...] = into_panels(codes).view(np.uint32).reshape(y.shape)


def _ternary_panels_t(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    (y,) = arrays(operands, "y")
    rows = _packed(operands)
    groups = rows.reshape(len(rows), -1, GROUP // 4).swapaxes(0, 1)
    y[...] = np.ascontiguousarray(groups).view(np.uint32)


MEANINGS: dict[str, Meaning] = {
    "code_panels": _code_panels,
    "ternary_panels": _ternary_panels,
    "ternary_panels_t": _ternary_panels_t,
}
