"""Rules and meanings of the kernels for the family `elementwise`."""

from collections.abc import Mapping

import numpy as np

from ....graph.ir import Node
from ....graph.tensors import HostValue
from ....graph.types import tensor
from .calls import Lowering, Meaning, Part, Rule, groups_for, reducing_workgroup, runs_of
from .copies import flat_groups
from .meanings import arrays, of_op

_WORKGROUP = 256
_SMALL_DOT = 4096
"""Products that one workgroup sums; more are summed in parts."""
_PARTS = 64


def _unary(kernel: str, **attributes: str) -> Rule:
    """A rule of y = f(x), given the constants that hold attributes of the op."""

    def rule(lowering: Lowering, node: Node) -> None:
        given = {constant: node.attributes[name] for constant, name in attributes.items()}
        for count, (x, y) in runs_of(lowering.limits, node.inputs[0], node.outputs[0]):
            constants = {"COUNT": count, **given}
            lowering.call(kernel, flat_groups(lowering, count), constants, x=x, y=y)

    return rule


def _binary(kernel: str) -> Rule:
    """A rule of c = f(a, b)."""

    def rule(lowering: Lowering, node: Node) -> None:
        for count, (a, b, c) in runs_of(lowering.limits, *node.inputs, node.outputs[0]):
            groups = flat_groups(lowering, count)
            lowering.call(kernel, groups, {"COUNT": count}, a=a, b=b, c=c)

    return rule


def _mul_scalar(lowering: Lowering, node: Node) -> None:
    x, s = node.inputs
    for count, (part_x, part_y) in runs_of(lowering.limits, x, node.outputs[0]):
        groups = flat_groups(lowering, count)
        lowering.call("mul_scalar", groups, {"COUNT": count}, x=part_x, y=part_y, s=s)


def _full_like(lowering: Lowering, node: Node) -> None:
    value = node.attributes["value"]
    for count, (y,) in runs_of(lowering.limits, node.outputs[0]):
        groups = groups_for(count, _WORKGROUP, lowering.limits)
        lowering.call("fill", groups, {"COUNT": count, "VALUE": value}, y=y)


def _dot(lowering: Lowering, node: Node) -> None:
    (total,) = node.outputs
    runs = list(runs_of(lowering.limits, *node.inputs))
    workgroup = reducing_workgroup(runs[0][0], lowering.limits)
    if len(runs) == 1 and runs[0][0] <= _SMALL_DOT:
        count, (a, b) = runs[0]
        constants = {"COUNT": count, "PARTS": 1, "WORKGROUP": workgroup}
        lowering.call("dot", (1, 1, 1), constants, a=a, b=b, s=total)
        return
    parts = max(_PARTS, lowering.limits.alignment // 4)
    sums = lowering.scratch(tensor("f32", len(runs) * parts))
    groups = groups_for(parts, 1, lowering.limits)
    for number, (count, (a, b)) in enumerate(runs):
        some = Part(sums, number * parts * 4, tensor("f32", parts))
        constants = {"COUNT": count, "PARTS": parts, "WORKGROUP": workgroup}
        lowering.call("dot", groups, constants, a=a, b=b, s=some)
    constants = {"PARTS": len(runs) * parts, "SIZE": 1, "WORKGROUP": 32}
    lowering.call("sum_parts", (1, 1, 1), constants, x=sums, y=total)


def _row_dot(lowering: Lowering, node: Node) -> None:
    a, b = node.inputs
    (d,) = node.outputs
    columns = a.type.shape[-1]
    lanes = min(_WORKGROUP, 1 << (-(-columns // 4) - 1).bit_length())
    constants = {"ROWS": d.type.size, "COLUMNS": columns, "LANES": lanes}
    groups = groups_for(d.type.size, _WORKGROUP // lanes, lowering.limits)
    lowering.call("row_dot", groups, constants, a=a, b=b, d=d)


def _dot_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    a, b, s = arrays(operands, "a", "b", "s")
    run = -(-a.size // s.size)
    for part in range(s.size):
        some = slice(part * run, (part + 1) * run)
        s[part] = np.dot(a[some].astype(np.float64), b[some].astype(np.float64))


def _fill_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    (y,) = arrays(operands, "y")
    y[...] = constants["VALUE"]


RULES: dict[str, Rule] = {
    "add": _binary("add"),
    "sub": _binary("sub"),
    "mul": _binary("mul"),
    "scale": _unary("scale", FACTOR="factor"),
    "mul_scalar": _mul_scalar,
    "dot": _dot,
    "full_like": _full_like,
    "squared_relu": _unary("squared_relu"),
    "relu": _unary("relu"),
    "silu": _unary("silu"),
    "silu_slope": _unary("silu_slope"),
    "row_dot": _row_dot,
}
MEANINGS: dict[str, Meaning] = dict(
    [
        of_op("add", "add"),
        of_op("sub", "sub"),
        of_op("mul", "mul"),
        of_op("scale", "scale", {"factor": "FACTOR"}),
        of_op("mul_scalar", "mul_scalar"),
        ("dot", _dot_meaning),
        ("fill", _fill_meaning),
        of_op("squared_relu", "squared_relu"),
        of_op("relu", "relu"),
        of_op("silu", "silu"),
        of_op("silu_slope", "silu_slope"),
        of_op("row_dot", "row_dot"),
    ]
)
