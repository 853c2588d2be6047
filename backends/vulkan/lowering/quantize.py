"""Rules and meanings of the kernels between floats and codes: activations (q8) and weights (t2)."""

from collections.abc import Mapping

import numpy as np

from ....graph.ir import Node, Value
from ....graph.tensors import HostValue, Ternary
from ....graph.types import tensor
from ..layout import assign
from .calls import Lowering, Meaning, Rule, groups_for, reducing_workgroup
from .meanings import arrays, of_op

_WORKGROUP = 256
_RUN = 1024
"""Loads of four weights that make a part of their sum worth a workgroup."""
_MOST_PARTS = 64
_LEAST_SCALE = np.float32(1e-5)


def _quantize(lowering: Lowering, node: Node) -> None:
    (x,), (q,) = node.inputs, node.outputs
    rows, columns = x.type.shape
    groups = groups_for(rows, 1, lowering.limits)
    workgroup = reducing_workgroup(-(-columns // 4), lowering.limits)
    constants = {"ROWS": rows, "COLUMNS": columns, "WORKGROUP": workgroup}
    lowering.call("quantize", groups, constants, x=x, q=q)


def _dequantize(lowering: Lowering, node: Node) -> None:
    dequantize(lowering, node.inputs[0], node.outputs[0])


def dequantize(lowering: Lowering, q: Value, y: Value) -> None:
    """Y = the floats that codes stand for."""
    rows, columns = q.type.shape
    groups = groups_for(rows * -(-columns // 4), _WORKGROUP, lowering.limits)
    lowering.call("dequantize", groups, {"ROWS": rows, "COLUMNS": columns}, q=q, y=y)


def _ternarize(lowering: Lowering, node: Node) -> None:
    (w,), (t,) = node.inputs, node.outputs
    rows, columns = w.type.shape
    limits, count = lowering.limits, w.type.size
    workgroup = reducing_workgroup(_WORKGROUP, limits)
    parts = min(-(-count // (4 * _RUN)), _MOST_PARTS, workgroup)
    sums = lowering.scratch(tensor("f32", parts))
    constants = {"COUNT": count, "PARTS": parts, "WORKGROUP": workgroup}
    lowering.call("abs_sums", groups_for(parts, 1, limits), constants, x=w, s=sums)
    constants = {"ROWS": rows, "COLUMNS": columns, "PARTS": parts, "WORKGROUP": workgroup}
    words = (t.type.nbytes - 4) // 4
    lowering.call("ternarize", groups_for(words, workgroup, limits), constants, w=w, sums=sums, t=t)


def _abs_sums_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    x, s = arrays(operands, "x", "s")
    each = 4 if x.size % 4 == 0 else 1
    run = -(-x.size // each // s.size) * each
    for part in range(s.size):
        s[part] = np.abs(x[part * run : (part + 1) * run]).sum(dtype=np.float32)


def _ternarize_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    w, sums = arrays(operands, "w", "sums")
    scale = np.maximum(sums.sum(dtype=np.float32) / np.float32(w.size), _LEAST_SCALE)
    codes = np.clip(np.rint(w * (np.float32(1) / scale)), -1, 1)
    assign(operands["t"], Ternary.pack(codes, float(scale)))


RULES: dict[str, Rule] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "ternarize": _ternarize,
}
MEANINGS: dict[str, Meaning] = dict(
    [
        of_op("quantize", "quantize"),
        of_op("dequantize", "dequantize"),
        ("abs_sums", _abs_sums_meaning),
        ("ternarize", _ternarize_meaning),
    ]
)
