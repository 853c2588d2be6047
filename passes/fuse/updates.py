"""Groups of equal steps on different tensors, which one dispatch can make side by side."""

from collections.abc import Iterator

from ...graph.ir import Node
from .view import View

MOST_UPDATES = 16
"""Params of one group: each binds four buffers."""


class Updates:
    """AdamW on several params with the same rate, step and options."""

    name = "updates"

    def find(self, view: View) -> Iterator[tuple[Node, ...]]:
        """Groups in the order of the graph."""
        groups: dict[object, list[Node]] = {}
        for node in view.graph.nodes:
            if node.op == "adamw":
                groups.setdefault((node.inputs[4:], node.attrs), []).append(node)
        for group in groups.values():
            for begin in range(0, len(group), MOST_UPDATES):
                yield tuple(group[begin : begin + MOST_UPDATES])
