"""The contract between what builds graphs and what executes them.

A backend holds the persistent values (weights, params, states) by name. Every program that it
compiles reads them there and leaves its in-place results there, so that programs of several shapes
share one model.
"""

from collections.abc import Mapping
from typing import Protocol

from .ir import Graph
from .tensors import Array, HostValue


class Program(Protocol):
    """A compiled graph."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One step: the graph's outputs by name, without those that took an input's place.

        Args:
            inputs: a value for each input of role INPUT.

        Raises:
            GraphError: an input is missing or has another type.
        """
        ...


class Backend(Protocol):
    """Executes graphs."""

    def load(self, values: Mapping[str, HostValue]) -> None:
        """Take over persistent values, replacing those of the same name."""
        ...

    def read(self, name: str) -> Array:
        """The present contents of a persistent plain tensor."""
        ...

    def compile(self, graph: Graph) -> Program:
        """Prepare a graph. Its weights, params and states must be loaded before it runs."""
        ...
