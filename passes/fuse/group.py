"""Making one node of several: what forbids it, where the new node stands, and what it is."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from ...graph.ir import Graph, Input, Node, Role, Value, sorted_attrs
from ...graph.ops.fused import FUSED
from ...graph.types import GraphError
from .view import View, key, needed_outside


def fuse_nodes(
    graph: Graph, pattern: str, members: Collection[str], results: tuple[Value, ...] | None = None
) -> Graph:
    """A graph with one group of nodes fused.

    Args:
        graph: verified.
        pattern: name of the pattern that they fit.
        members: name of the first result of each.
        results: what the fused node gives; by default what is needed outside.

    Raises:
        GraphError: something forbids it; see `Regrouping.fuse`.
    """
    work = Regrouping(graph)
    nodes = tuple(node for node in graph.nodes if key(node) in set(members))
    needed = needed_outside(View.of(graph), nodes)
    work.fuse(pattern, nodes, needed if results is None else results, needed)
    return work.graph()


@dataclass(frozen=True)
class _Window:
    """Nodes from a group's first to its last: those that do not depend on it, those that do."""

    begin: int
    end: int
    before: tuple[Node, ...]
    after: tuple[Node, ...]


class Regrouping:
    """The nodes of a graph while groups of them become one."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes: list[Node | None] = list(graph.nodes)
        self._place = {key(node): k for k, node in enumerate(graph.nodes)}
        self._donated = {alias.output: alias.donated for alias in graph.aliases}
        self._donors = {alias.donated for alias in graph.aliases}

    def graph(self) -> Graph:
        """The graph as it is now."""
        return replace(self._graph, nodes=tuple(n for n in self._nodes if n is not None))

    def holds(self, nodes: Iterable[Node]) -> bool:
        """Whether nodes still stand for themselves."""
        places = [self._place.get(key(node)) for node in nodes]
        return all(
            place is not None and self._nodes[place] is node
            for place, node in zip(places, nodes, strict=True)
        )

    def obstacle(
        self, nodes: tuple[Node, ...], results: tuple[Value, ...], needed: tuple[Value, ...]
    ) -> str:
        """Why nodes cannot become one, in one sentence; empty if they can.

        The new node would need a value that depends on it (a path leaves the group and comes
        back), a value that is needed outside would be lost, or none is needed at all.
        """
        found = self._window(nodes, results, needed)
        return found if isinstance(found, str) else ""

    def fuse(
        self,
        pattern: str,
        nodes: tuple[Node, ...],
        results: tuple[Value, ...],
        needed: tuple[Value, ...],
    ) -> None:
        """Put one node in the place of several, behind all that it reads and before all its users.

        Raises:
            GraphError: there is an `obstacle`.
        """
        window = self._window(nodes, results, needed)
        if isinstance(window, str):
            raise GraphError(f"{pattern}: {window}")
        fused = fused_node(pattern, nodes, results)
        rest = (*window.before, fused, *window.after)
        for node in nodes:
            del self._place[key(node)]
        padding = (None,) * (window.end - window.begin - len(rest))
        self._nodes[window.begin : window.end] = (*rest, *padding)
        self._place.update((key(node), k) for k, node in enumerate(rest, window.begin))

    def _window(
        self, nodes: tuple[Node, ...], results: tuple[Value, ...], needed: tuple[Value, ...]
    ) -> _Window | str:
        for value in needed:
            if value not in results:
                return f"{value} is needed outside, but the fused node does not give it"
        if not results:
            return "nothing needs what the group gives"
        members = {key(node) for node in nodes}
        places = [self._place[name] for name in members]
        begin, end = min(places), max(places) + 1
        before: list[Node] = []
        after: list[Node] = []
        inside: set[str] = set()
        dependent: set[str] = set()
        for node in self._nodes[begin:end]:
            if node is None:
                continue
            reads = self._reads(node)
            if key(node) in members:
                if cycle := sorted(reads & dependent):
                    return f"a path leaves the group and comes back through %{cycle[0]}"
                inside |= self._makes(node)
            elif reads & (inside | dependent):
                dependent |= self._makes(node)
                after.append(node)
            else:
                before.append(node)
        return _Window(begin, end, tuple(before), tuple(after))

    def _reads(self, node: Node) -> set[str]:
        """Values that must be there before a node runs, and old values that must have been read.

        What takes the place of a param or a state comes after all that read the old value.
        """
        reads = {value.name for value in node.inputs}
        taken = {self._donated[v.name] for v in node.outputs if v.name in self._donated}
        return reads | {_has_been_read(name) for name in taken}

    def _makes(self, node: Node) -> set[str]:
        read = {value.name for value in node.inputs} & self._donors
        return {value.name for value in node.outputs} | {_has_been_read(name) for name in read}


def _has_been_read(name: str) -> str:
    return f"{name}, read"  # no value has such a name


def fused_node(pattern: str, nodes: tuple[Node, ...], results: tuple[Value, ...]) -> Node:
    """The node that stands for others, in the scope of the last."""
    made = {value.name for node in nodes for value in node.outputs}
    read = dict.fromkeys(v for node in nodes for v in node.inputs if v.name not in made)
    inputs = tuple(Input(value, Role.INPUT) for value in read)
    body = Graph(FUSED, inputs, nodes, results)
    attrs = sorted_attrs({"pattern": pattern, "body": str(body)})
    return Node(FUSED, tuple(read), results, attrs, nodes[-1].scope)
