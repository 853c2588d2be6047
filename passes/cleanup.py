"""Dead code and common subexpressions."""

from dataclasses import dataclass, replace
from typing import ClassVar

from ..graph.analysis import needed_for
from ..graph.ir import Graph, Node, Role, Value
from ..graph.rewrite import with_inputs


@dataclass(frozen=True)
class EliminateDeadCode:
    """Removes nodes that no output depends on, and weights and step inputs that nothing reads."""

    name: ClassVar[str] = "dce"

    def __call__(self, graph: Graph) -> Graph:
        """The graph without them. Params and states stay: their owner expects to find them."""
        needed = needed_for(graph, {value.name for value in graph.outputs})
        kept = (Role.PARAM, Role.STATE)
        return replace(
            graph,
            inputs=tuple(i for i in graph.inputs if i.role in kept or i.value.name in needed),
            nodes=tuple(n for n in graph.nodes if any(v.name in needed for v in n.outputs)),
        )


@dataclass(frozen=True)
class MergeCommonSubexpressions:
    """Computes equal things once. Every op is a pure function, so equal nodes give equal results.

    Nodes that make an output of the graph keep their names and are not merged away. What was put
    there to be recomputed (a ``recompute`` in its scope) is not merged with what it repeats.
    """

    name: ClassVar[str] = "cse"

    def __call__(self, graph: Graph) -> Graph:
        """The graph with duplicates merged into their first occurrence."""
        returned = set(graph.outputs)
        first: dict[object, Node] = {}
        new: dict[Value, Value] = {}
        nodes: list[Node] = []
        for original in graph.nodes:
            node = with_inputs(original, new)
            attrs = repr(node.attrs)  # 0.0 and -0.0 are equal, but not the same
            key = (node.op, node.inputs, attrs, _recompute_scope(node))
            twin = first.get(key)
            if twin is None or returned & set(node.outputs):
                first.setdefault(key, node)
                nodes.append(node)
            else:
                new.update(zip(node.outputs, twin.outputs, strict=True))
        return replace(graph, nodes=tuple(nodes))


def _recompute_scope(node: Node) -> str:
    return node.scope if "recompute" in node.scope.split("/") else ""
