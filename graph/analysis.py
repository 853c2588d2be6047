"""What can be derived from a graph: who uses what, how long values live, the networkx view."""

import networkx as nx

from .ir import Graph, Node, Value


def producers(graph: Graph) -> dict[str, Node]:
    """The node that makes each value; inputs have none."""
    return {value.name: node for node in graph.nodes for value in node.outputs}


def users(graph: Graph) -> dict[str, list[Node]]:
    """The nodes that read each value, in order; every value of the graph is a key."""
    result: dict[str, list[Node]] = {i.value.name: [] for i in graph.inputs}
    for node in graph.nodes:
        result.update({value.name: [] for value in node.outputs})
        for name in dict.fromkeys(value.name for value in node.inputs):
            result[name].append(node)
    return result


def last_uses(graph: Graph) -> list[tuple[str, ...]]:
    """For each node the values that nothing after it reads and the caller does not get.

    A result that is never read counts at the node that makes it.
    """
    returned = {value.name for value in graph.outputs}
    last: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        for value in (*node.inputs, *node.outputs):
            last[value.name] = position
    dying: list[list[str]] = [[] for _ in graph.nodes]
    for name, position in last.items():
        if name not in returned:
            dying[position].append(name)
    return [tuple(names) for names in dying]


def leads_to(graph: Graph, sources: set[str]) -> set[str]:
    """Names of the values that depend on any of the sources, the sources included."""
    reached = set(sources)
    for node in graph.nodes:
        if any(value.name in reached for value in node.inputs):
            reached.update(value.name for value in node.outputs)
    return reached


def needed_for(graph: Graph, targets: set[str]) -> set[str]:
    """Names of the values that any of the targets depends on, the targets included."""
    needed = set(targets)
    for node in reversed(graph.nodes):
        if any(value.name in needed for value in node.outputs):
            needed.update(value.name for value in node.inputs)
    return needed


def all_values(graph: Graph) -> list[Value]:
    """Inputs and results, in order."""
    return [i.value for i in graph.inputs] + [v for node in graph.nodes for v in node.outputs]


def to_networkx(graph: Graph) -> "nx.DiGraph[str]":
    """A directed graph from values to ops to values.

    Op nodes are named by their position; they carry ``op`` and ``scope``, values carry ``type``.
    """
    view: nx.DiGraph[str] = nx.DiGraph(name=graph.name)
    for value in all_values(graph):
        view.add_node(value.name, kind="value", type=str(value.type))
    for position, node in enumerate(graph.nodes):
        key = f"#{position}"
        view.add_node(key, kind="op", op=node.op, scope=node.scope)
        view.add_edges_from((value.name, key) for value in node.inputs)
        view.add_edges_from((key, value.name) for value in node.outputs)
    return view
