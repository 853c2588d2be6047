"""The rule and meaning of the kernel for the op `quantize`."""

from ....graph.ir import Node
from .calls import Lowering, Meaning, Rule, groups_for, reducing_workgroup
from .meanings import of_op


def _quantize(lowering: Lowering, node: Node) -> None:
    (x,), (q,) = node.inputs, node.outputs
    rows, columns = x.type.shape
    groups = groups_for(rows, 1, lowering.limits)
    workgroup = reducing_workgroup(-(-columns // 4), lowering.limits)
    constants = {"ROWS": rows, "COLUMNS": columns, "WORKGROUP": workgroup}
    lowering.call("quantize", groups, constants, x=x, q=q)


RULES: dict[str, Rule] = {"quantize": _quantize}
MEANINGS: dict[str, Meaning] = dict([of_op("quantize", "quantize")])
