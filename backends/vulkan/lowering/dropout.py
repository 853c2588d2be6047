"""The rule and meaning of the kernel for the op `dropout`."""

from collections.abc import Mapping

from ....graph.ir import Node
from ....graph.ops import op_def
from ....graph.tensors import HostValue
from ....graph.types import GraphError
from .calls import Lowering, Meaning, Rule, groups_for
from .meanings import arrays

_WORKGROUP = 256


def _dropout(lowering: Lowering, node: Node) -> None:
    x, draw = node.inputs
    (y,) = node.outputs
    if x.type.nbytes > lowering.limits.max_range:
        raise GraphError(f"{x}: {x.type} is more than the device binds at once")
    p = node.attributes["p"]
    constants = {
        "COUNT": x.type.size,
        "P": p,
        "FACTOR": 1 / (1 - p),
        "STREAM": node.attributes["stream"],
        "SEED": node.attributes["seed"],
    }
    groups = groups_for(-(-x.type.size // 4), _WORKGROUP, lowering.limits)
    lowering.call("dropout", groups, constants, x=x, draw=draw, y=y)


def _meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    x, draw, y = arrays(operands, "x", "draw", "y")
    seed, stream = int(constants["SEED"]), int(constants["STREAM"])
    y[...] = op_def("dropout").eval(x, draw, p=constants["P"], seed=seed, stream=stream)


RULES: dict[str, Rule] = {"dropout": _dropout}
MEANINGS: dict[str, Meaning] = {"dropout": _meaning}
