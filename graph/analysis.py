"""What can be derived from a graph: who uses what, how long values live, the networkx view."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .ir import Graph, Node, Value
from .ops import op_def

if TYPE_CHECKING:
    import networkx as nx


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


@dataclass(frozen=True)
class Lifetime:
    """Memory that some nodes of a graph need.

    Attributes:
        value: whose bytes they are; its views lie in them too.
        begin: position of the node that makes it.
        end: position of the last node that reads it or a view of it.
    """

    value: Value
    begin: int
    end: int


def storage(graph: Graph) -> dict[str, Value]:
    """For each value the one in whose memory it lies.

    A view lies where its operand does, unless that is an input's memory, which others may write
    to; an output that takes an input's place lies there; any other value is its own.
    """
    inputs = {i.value.name: i.value for i in graph.inputs}
    home = dict(inputs)
    home |= {alias.output: inputs[alias.donated] for alias in graph.aliases}
    for node in graph.nodes:
        root = home[node.inputs[0].name] if op_def(node.op).view else None
        for value in node.outputs:
            viewed = root is not None and root.name not in inputs
            home.setdefault(value.name, root if viewed and root is not None else value)
    return home


def lifetimes(graph: Graph) -> tuple[Lifetime, ...]:
    """Of all values that need memory while the graph runs, in the order they are made.

    Inputs and outputs have memory of their own, for longer than that.
    """
    home = storage(graph)
    outside = {i.value.name for i in graph.inputs} | {home[v.name].name for v in graph.outputs}
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        for value in (*node.inputs, *node.outputs):
            root = home[value.name].name
            begins.setdefault(root, position)
            ends[root] = position
    return tuple(
        Lifetime(home[name], begin, ends[name])
        for name, begin in begins.items()
        if name not in outside
    )


def _no_workspace(node: Node) -> int:
    return 0


@dataclass(frozen=True)
class Footprint:
    """What a backend's kernels make of the memory of nodes.

    Attributes:
        workspace: bytes that a node needs while it runs, besides its operands and results.
        in_place: ops whose result takes the place of an operand of its size that nothing reads
            again.
    """

    workspace: Callable[[Node], int] = _no_workspace
    in_place: frozenset[str] = frozenset()


PLAIN = Footprint()
"""Nodes need their operands and results, and nothing else."""


def live_bytes(
    graph: Graph, footprint: Footprint = PLAIN, alignment: int = 1
) -> npt.NDArray[np.int64]:
    """Bytes of the values that are alive at each node, operands and results included.

    Args:
        graph: of which the inputs and outputs do not count.
        footprint: of its nodes.
        alignment: sizes are rounded up to a multiple of it.
    """
    lives = {life.value.name: life for life in lifetimes(graph)}
    change = np.zeros(len(graph.nodes) + 1, dtype=np.int64)
    for life in lives.values():
        size = _aligned(life.value.type.nbytes, alignment)
        change[life.begin] += size
        change[life.end + 1] -= size
    own = np.zeros(len(graph.nodes), dtype=np.int64)
    home = storage(graph)
    for position, node in enumerate(graph.nodes):
        own[position] = _aligned(footprint.workspace(node), alignment)
        result = lives.get(node.outputs[0].name)
        if node.op in footprint.in_place and result is not None:
            size = result.value.type.nbytes
            operands = (lives.get(home[value.name].name) for value in node.inputs)
            if any(x and x.end == position and x.value.type.nbytes == size for x in operands):
                own[position] -= _aligned(size, alignment)
    return np.cumsum(change)[:-1] + own


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def input_bytes(graph: Graph) -> int:
    """Bytes of all inputs: weights, params, states and what a step is given."""
    return sum(i.value.type.nbytes for i in graph.inputs)


def all_values(graph: Graph) -> list[Value]:
    """Inputs and results, in order."""
    return [i.value for i in graph.inputs] + [v for node in graph.nodes for v in node.outputs]


def to_networkx(graph: Graph) -> "nx.DiGraph[str]":
    """A directed graph from values to ops to values.

    Op nodes are named by their position; they carry ``op`` and ``scope``, values carry ``type``.
    """
    import networkx as nx  # slow to load, seldom needed

    view: nx.DiGraph[str] = nx.DiGraph(name=graph.name)
    for value in all_values(graph):
        view.add_node(value.name, kind="value", type=str(value.type))
    for position, node in enumerate(graph.nodes):
        key = f"#{position}"
        view.add_node(key, kind="op", op=node.op, scope=node.scope)
        view.add_edges_from((value.name, key) for value in node.inputs)
        view.add_edges_from((key, value.name) for value in node.outputs)
    return view
