"""The contract between what builds graphs and what executes them.

A backend holds the persistent values (weights, params, states) by name. Every program that it
compiles reads them there and leaves its in-place results there, so that programs of several shapes
share one model.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from .ir import Graph, Node
from .tensors import Array, HostValue


class Pending(Protocol):
    """Steps that have been started."""

    @property
    def done(self) -> bool:
        """Whether `results` returns without waiting."""
        ...

    def results(self) -> list[dict[str, Array]]:
        """Wait for the steps; the outputs of each, without those that took an input's place.

        They are arrays, as graphs of models return them; an output of a packed type comes as its
        host value.
        """
        ...


class Program(Protocol):
    """A compiled graph.

    The inputs of many steps are handed over at once, then steps are started one by one or several
    together: a device need not wait for the host in between.
    """

    @property
    def schedule(self) -> object:
        """What will be run; its `str` is a text for people."""
        ...

    @property
    def device_bytes(self) -> int:
        """Device memory that a step takes, persistent values included; 0 on the host itself."""
        ...

    def stage(self, steps: Sequence[Mapping[str, Array]]) -> None:
        """Hand over the inputs of the coming steps, after all started ones are done.

        Args:
            steps: for each step a value for each input of role INPUT. What was staged before and
                not started is forgotten.

        Raises:
            GraphError: an input is missing or has another type.
        """
        ...

    def start(self, count: int = 1) -> Pending:
        """Begin the next `count` staged steps."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One step, staged, started and waited for."""
        ...


class Backend(Protocol):
    """Executes graphs.

    Attributes:
        steps_together: how many short steps are best started together.
    """

    steps_together: int

    @property
    def name(self) -> str:
        """The device and its driver: what measured costs are valid for."""
        ...

    @property
    def memory(self) -> int | None:
        """Bytes that a program may take on the device; None where that is the host itself."""
        ...

    def workspace(self, node: Node) -> int:
        """Bytes that a node needs while it runs, besides its operands and results."""
        ...

    def profile(self, graph: Graph, inputs: Mapping[str, Array]) -> dict[str, float]:
        """Seconds that each node takes, by the name of its first result.

        Persistent values must be loaded; a step is run several times and changes them.
        """
        ...

    def load(self, values: Mapping[str, HostValue]) -> None:
        """Take over persistent values, replacing those of the same name."""
        ...

    def read(self, name: str) -> Array:
        """The present contents of a persistent plain tensor."""
        ...

    def compile(self, graph: Graph) -> Program:
        """Prepare a graph. Its weights, params and states must be loaded before it runs."""
        ...
