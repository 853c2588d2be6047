"""Rules and meanings of the kernels for the family `norm`."""

from collections.abc import Mapping

import numpy as np

from ....graph.ir import Node
from ....graph.tensors import HostValue
from ....graph.types import tensor
from .calls import Lowering, Meaning, Rule, groups_for, reducing_workgroup
from .linear import sum_parts
from .meanings import arrays, of_op

_COLUMNS = 32
"""Columns of a workgroup of rms_norm_weight_grad."""
_GROUPS_WANTED = 512
"""Workgroups that keep a large device busy with it."""
_ROWS_WANTED = 64
"""Rows that make a part worth its second stage."""


def _rms_norm(lowering: Lowering, node: Node) -> None:
    x, weight = node.inputs
    operands = {"x": x, "weight": weight, "y": node.outputs[0]}
    lowering.call("rms_norm", _row_groups(lowering, node), _constants(lowering, node), **operands)


def _rms_norm_grad(lowering: Lowering, node: Node) -> None:
    dy, x, weight = node.inputs
    operands = {"dy": dy, "x": x, "weight": weight, "dx": node.outputs[0]}
    lowering.call(
        "rms_norm_grad", _row_groups(lowering, node), _constants(lowering, node), **operands
    )


def _rms_norm_weight_grad(lowering: Lowering, node: Node) -> None:
    dy, x = node.inputs
    rows, columns = x.type.shape
    r = lowering.scratch(x.type.with_shape((rows,)))
    lowering.call("inverse_rms", _row_groups(lowering, node), _constants(lowering, node), x=x, r=r)
    (dw,) = node.outputs
    tiles = -(-columns // _COLUMNS)
    parts = max(1, min(_GROUPS_WANTED // tiles, rows // _ROWS_WANTED))
    target = dw if parts == 1 else lowering.scratch(tensor("f32", parts, columns))
    sizes = {"ROWS": rows, "COLUMNS": columns, "PARTS": parts}
    groups = groups_for(tiles * parts, 1, lowering.limits)
    lowering.call("rms_norm_weight_grad", groups, sizes, dy=dy, x=x, r=r, dw=target)
    if parts > 1:
        sum_parts(lowering, target, dw)


def _constants(lowering: Lowering, node: Node) -> dict[str, int | float]:
    rows, columns = node.inputs[0].type.shape
    workgroup = reducing_workgroup(-(-columns // 4), lowering.limits)
    sizes = {"ROWS": rows, "COLUMNS": columns, "WORKGROUP": workgroup}
    return {**sizes, "EPS": node.attributes["eps"]}


def _row_groups(lowering: Lowering, node: Node) -> tuple[int, int, int]:
    """A workgroup a row."""
    return groups_for(node.inputs[0].type.shape[0], 1, lowering.limits)


def _inverse_rms_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    x, r = arrays(operands, "x", "r")
    r[...] = 1 / np.sqrt(np.mean(x * x, axis=1) + np.float32(constants["EPS"]))


def _weight_grad_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    dy, x, r, dw = arrays(operands, "dy", "x", "r", "dw")
    parts = dw.reshape(-1, x.shape[1])
    run = -(-len(x) // len(parts))
    for part, target in enumerate(parts):
        some = slice(part * run, (part + 1) * run)
        np.sum(dy[some] * x[some] * r[some, None], axis=0, out=target)


RULES: dict[str, Rule] = {
    "rms_norm": _rms_norm,
    "rms_norm_grad": _rms_norm_grad,
    "rms_norm_weight_grad": _rms_norm_weight_grad,
}
MEANINGS: dict[str, Meaning] = dict(
    [
        of_op("rms_norm", "rms_norm", {"eps": "EPS"}),
        of_op("rms_norm_grad", "rms_norm_grad", {"eps": "EPS"}),
        ("inverse_rms", _inverse_rms_meaning),
        ("rms_norm_weight_grad", _weight_grad_meaning),
    ]
)
