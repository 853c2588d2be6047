"""Rules and meanings of the kernels for rotary positions."""

from collections.abc import Mapping

import numpy as np

from ....graph.ir import Node
from ....graph.ops import op_def
from ....graph.tensors import HostValue
from .calls import Lowering, Meaning, Rule, groups_for
from .meanings import arrays, of_op

_WORKGROUP = 256


def _rope_table(lowering: Lowering, node: Node) -> None:
    positions, frequencies = node.inputs
    rows, half = positions.type.size, frequencies.type.size
    groups = groups_for(rows * half, _WORKGROUP, lowering.limits)
    operands = {"positions": positions, "frequencies": frequencies, "table": node.outputs[0]}
    lowering.call("rope_table", groups, {"ROWS": rows, "HALF": half}, **operands)


def _rope(lowering: Lowering, node: Node) -> None:
    x, table = node.inputs
    rows, heads, width = x.type.shape
    inverse = node.attributes["inverse"]
    constants = {"ROWS": rows, "HEADS": heads, "WIDTH": width, "INVERSE": inverse}
    items = x.type.size // (8 if width % 8 == 0 else 2)
    groups = groups_for(items, _WORKGROUP, lowering.limits)
    lowering.call("rope", groups, constants, x=x, table=table, y=node.outputs[0])


def _table_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    positions, frequencies, table = arrays(operands, "positions", "frequencies", "table")
    result = op_def("rope_table").eval(positions, frequencies)
    assert isinstance(result, np.ndarray)
    table[...] = result.reshape(table.shape)


RULES: dict[str, Rule] = {"rope": _rope, "rope_table": _rope_table}
MEANINGS: dict[str, Meaning] = dict(
    [of_op("rope", "rope", {"inverse": "INVERSE"}), ("rope_table", _table_meaning)]
)
