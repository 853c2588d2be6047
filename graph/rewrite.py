"""Small rewrites that passes are made of."""

from collections.abc import Mapping
from dataclasses import replace

from .analysis import all_values
from .ir import Alias, Graph, Input, Node, Value
from .ops.fused import FUSED, expanded


def map_values(graph: Graph, new: Mapping[Value, Value]) -> Graph:
    """Replace values wherever they stand, as operands, results, inputs, outputs and aliases."""
    names = {old.name: value.name for old, value in new.items()}
    return replace(
        graph,
        inputs=tuple(Input(new.get(i.value, i.value), i.role) for i in graph.inputs),
        nodes=tuple(
            replace(
                node, inputs=substitute(node.inputs, new), outputs=substitute(node.outputs, new)
            )
            for node in graph.nodes
        ),
        outputs=substitute(graph.outputs, new),
        aliases=tuple(
            Alias(names.get(a.output, a.output), names.get(a.donated, a.donated))
            for a in graph.aliases
        ),
    )


def rename(graph: Graph, names: Mapping[str, str]) -> Graph:
    """Give values other names."""
    values = [i.value for i in graph.inputs] + [v for n in graph.nodes for v in n.outputs]
    return map_values(graph, {v: replace(v, name=names[v.name]) for v in values if v.name in names})


def substitute(values: tuple[Value, ...], new: Mapping[Value, Value]) -> tuple[Value, ...]:
    """Replace those values that have a replacement."""
    return tuple(new.get(value, value) for value in values)


def with_inputs(node: Node, new: Mapping[Value, Value]) -> Node:
    """A node that reads the replacements of its operands."""
    return replace(node, inputs=substitute(node.inputs, new))


def expand_fused(graph: Graph) -> Graph:
    """Put back the nodes that fused nodes stand for."""
    if all(node.op != FUSED for node in graph.nodes):
        return graph
    taken = {value.name for value in all_values(graph)}
    nodes: list[Node] = []
    for node in graph.nodes:
        parts = expanded(node, taken) if node.op == FUSED else (node,)
        taken.update(value.name for part in parts for value in part.outputs)
        nodes += parts
    return replace(graph, nodes=tuple(nodes))
