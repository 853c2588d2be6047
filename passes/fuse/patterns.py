"""The table of patterns, in the order in which they are tried: the larger before its parts."""

from collections.abc import Iterator
from typing import Protocol

from ...graph.ir import Node
from .pattern import Pattern, View
from .products import LowProducts, Product, ProductGradients, WeightGradients
from .updates import Updates


class Finder(Protocol):
    """A row of the table: a name, and how groups of nodes are found."""

    @property
    def name(self) -> str:
        """Name of the pattern; it chooses the kernel."""
        ...

    def find(self, view: View) -> Iterator[tuple[Node, ...]]:
        """Groups that share no node, each in the order of the graph or of its statements."""
        ...


NORM_QUANTIZE = Pattern(
    "norm_quantize",
    """
    normed = rms_norm(x, weight)
    codes = quantize(normed)
    """,
    also=("normed",),
)

PATTERNS: tuple[Finder, ...] = (
    NORM_QUANTIZE,
    ProductGradients(),
    WeightGradients(),
    Product(),
    LowProducts(),
    Updates(),
)
