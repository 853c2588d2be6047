"""The pass that fuses: row by row of the table, wherever nothing forbids it."""

from dataclasses import dataclass
from typing import ClassVar

from ...graph.ir import Graph
from ...graph.types import GraphError
from .group import Regrouping
from .patterns import PATTERNS, Finder
from .view import View, needed_outside


@dataclass(frozen=True)
class Fuse:
    """Makes one node, of the op ``fused``, of every group of nodes that fits a pattern.

    Attributes:
        only: names of the patterns to use; none means all.
    """

    name: ClassVar[str] = "fuse"
    only: tuple[str, ...] = ()

    def __call__(self, graph: Graph) -> Graph:
        """The graph with fused nodes; what the nodes of a group gave, its fused node gives.

        Raises:
            GraphError: `only` names a pattern that is not in the table.
        """
        known = [pattern.name for pattern in PATTERNS]
        for name in self.only:
            if name not in known:
                raise GraphError(f"there is no pattern named '{name}'; there are {known}")
        for pattern in PATTERNS:
            if not self.only or pattern.name in self.only:
                graph = _apply(graph, pattern)
        return graph


def _apply(graph: Graph, pattern: Finder) -> Graph:
    view, work = View.of(graph), Regrouping(graph)
    order = {id(node): k for k, node in enumerate(graph.nodes)}
    for found in pattern.find(view):
        nodes = tuple(sorted(found, key=lambda node: order[id(node)]))
        needed = needed_outside(view, nodes)
        if work.holds(nodes) and not work.obstacle(nodes, needed, needed):
            work.fuse(pattern.name, nodes, needed, needed)
    return work.graph()
