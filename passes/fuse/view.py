"""What is asked of a graph while groups of its nodes are looked for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...graph.analysis import producers, users
from ...graph.ir import Graph, Input, Node, Role, Value
from ...graph.ops.fused import FUSED, expanded

MOST_BINDINGS = 10
"""Operands and results of a group: each is a binding of its kernel."""

MOST_STEPS = 12
"""Nodes of a group."""


@dataclass(frozen=True)
class View:
    """A graph with what can be derived from it."""

    graph: Graph
    producers: Mapping[str, Node]
    users: Mapping[str, list[Node]]
    returned: frozenset[str]

    @classmethod
    def of(cls, graph: Graph) -> "View":
        """The view of a graph."""
        returned = frozenset(value.name for value in graph.outputs)
        return cls(graph, producers(graph), users(graph), returned)

    @classmethod
    def inside(cls, node: Node) -> "View":
        """The view of what a fused node stands for, on its own operands and results."""
        inputs = tuple(Input(value, Role.INPUT) for value in dict.fromkeys(node.inputs))
        return cls.of(Graph(FUSED, inputs, expanded(node), node.outputs))


def key(node: Node) -> str:
    """What tells a node apart from the others of its graph: the name of its first result."""
    return node.outputs[0].name


def read_by(nodes: Iterable[Node]) -> tuple[Value, ...]:
    """What a group reads and does not make, in order."""
    nodes = tuple(nodes)
    made = {value.name for node in nodes for value in node.outputs}
    return tuple(dict.fromkeys(v for n in nodes for v in n.inputs if v.name not in made))


def needed_outside(view: View, nodes: Iterable[Node]) -> tuple[Value, ...]:
    """Results of a group that others read or the graph returns, in order."""
    nodes = tuple(nodes)
    members = {key(node) for node in nodes}
    return tuple(
        value
        for node in nodes
        for value in node.outputs
        if value.name in view.returned
        or any(key(user) not in members for user in view.users[value.name])
    )


def fits(view: View, nodes: tuple[Node, ...]) -> bool:
    """Whether a group is small enough for one kernel."""
    bindings = len(read_by(nodes)) + len(needed_outside(view, nodes))
    return len(nodes) <= MOST_STEPS and bindings <= MOST_BINDINGS
