"""Lowering: which kernels serve a node, family by family."""

from ....graph.ir import Graph, Node, Value
from ....graph.types import GraphError
from ..limits import Limits
from . import (
    attention,
    copies,
    elementwise,
    embedding,
    linear,
    loss,
    norm,
    optimizer,
    quantize,
    rope,
    sampling,
)
from .calls import Lowering, Meaning, Rule

_FAMILIES = (
    copies,
    elementwise,
    norm,
    quantize,
    linear,
    rope,
    attention,
    embedding,
    loss,
    optimizer,
    sampling,
)

RULES: dict[str, Rule] = {op: rule for family in _FAMILIES for op, rule in family.RULES.items()}
MEANINGS: dict[str, Meaning] = {
    kernel: meaning for family in _FAMILIES for kernel, meaning in family.MEANINGS.items()
}


def label_of(node: Node) -> str:
    """What the dispatches of a node are labelled with: its scope and its first result."""
    return f"{node.scope}:{node.outputs[0].name}"


def lower_calls(graph: Graph, limits: Limits) -> Lowering:
    """The calls of all nodes of a graph.

    Raises:
        GraphError: an op has no kernel for this device.
    """
    values = {i.value.name: i.value for i in graph.inputs}
    donors: dict[str, Value] = {a.output: values[a.donated] for a in graph.aliases}
    lowering = Lowering(limits, donors, frozenset(values))
    for node in graph.nodes:
        if node.op not in RULES:
            raise GraphError(f"there is no kernel for the op {node.op}")
        lowering.label = label_of(node)
        RULES[node.op](lowering, node)
    return lowering
