"""Lowering: which kernels serve a node, family by family."""

from ....graph.ir import Graph, Node, Value
from ..chains import is_chain
from ..limits import Limits
from . import (
    adapters,
    attention,
    contraction,
    copies,
    dropout,
    elementwise,
    embedding,
    fused,
    linear,
    loss,
    matvec,
    norm,
    optimizer,
    projections,
    quantize,
    rope,
    sampling,
    ternary_gradients,
    ternary_products,
    training_loss,
)
from .calls import Lowering, Meaning, Rule

_FAMILIES = (
    copies,
    dropout,
    elementwise,
    norm,
    quantize,
    linear,
    ternary_products,
    ternary_gradients,
    matvec,
    contraction,
    adapters,
    projections,
    rope,
    attention,
    embedding,
    loss,
    training_loss,
    optimizer,
    sampling,
    fused,
)

RULES: dict[str, Rule] = {op: rule for family in _FAMILIES for op, rule in family.RULES.items()}
MEANINGS: dict[str, Meaning] = {
    kernel: meaning for family in _FAMILIES for kernel, meaning in family.MEANINGS.items()
}


def meaning_of(kernel: str) -> Meaning:
    """What a kernel does, in NumPy: a variant does what the kernel does that it is one of.

    Raises:
        KeyError: nobody says.
    """
    if is_chain(kernel):
        return fused.chain_meaning(kernel)
    name = kernel
    while name not in MEANINGS and "+" in name:
        name = name.rpartition("+")[0]
    return MEANINGS[name]


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
    lowering = Lowering(limits, donors, frozenset(values), RULES)
    for node in graph.nodes:
        lowering.label = label_of(node)
        lowering.lower(node)
    lowering.drop_unread(graph.outputs)
    return lowering
