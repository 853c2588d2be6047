"""The rewrite: backward reads copies that are computed again, made where they are first needed."""

from collections.abc import Set
from dataclasses import replace

from ...graph.analysis import producers
from ...graph.ir import Graph, Node, Value
from ...graph.rewrite import with_inputs
from .layers import RECOMPUTE, backward_nodes

AGAIN = ".re"
"""What the names of values that are computed again have behind them."""


def rematerialize(graph: Graph, recomputed: Set[str]) -> Graph:
    """Let the backward pass compute some values of the forward pass again.

    A clone has its node's op, operands and attributes, the scope with ``/recompute`` behind it and
    results named ``NAME.re``. It stands right before the first node that reads it.

    Args:
        graph: with a forward and a backward pass.
        recomputed: names of values; all results of a node are among them or none.
    """
    made = producers(graph)
    nodes: list[Node] = []
    clones: dict[Value, Value] = {}

    def again(values: tuple[Value, ...]) -> None:
        """Emit the clones of the nodes that make the values, those of their operands first."""
        for value in values:
            if value.name not in recomputed or value in clones:
                continue
            node = made[value.name]
            again(node.inputs)
            results = tuple(replace(v, name=f"{v.name}{AGAIN}") for v in node.outputs)
            scope = f"{node.scope}/{RECOMPUTE}".lstrip("/")
            nodes.append(replace(with_inputs(node, clones), outputs=results, scope=scope))
            clones.update(zip(node.outputs, results, strict=True))

    for node, behind in zip(graph.nodes, backward_nodes(graph), strict=True):
        if behind:
            again(node.inputs)
            node = with_inputs(node, clones)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))
