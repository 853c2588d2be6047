"""The contract between what builds graphs and what executes them.

A backend holds the persistent values (weights, params, states) by name. Every program that it
compiles reads them there and leaves its in-place results there, so that programs of several shapes
share one model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .analysis import Footprint
from .ir import Graph
from .tensors import Array, HostValue


@dataclass(frozen=True)
class ArenaUse:
    """Memory for the values that live within a step and share their bytes.

    Attributes:
        bytes: what they take.
        lower_bound: bytes of those that are alive at once, at the worst moment.
    """

    bytes: int = 0
    lower_bound: int = 0

    def __str__(self) -> str:
        excess = self.bytes / max(self.lower_bound, 1) - 1
        return f"{self.bytes / 2**20:,.2f} MiB, {excess:.2%} above what is alive at once"


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

    @property
    def arenas(self) -> ArenaUse:
        """What of the device memory the values within a step share."""
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

    def first_nonfinite(self, inputs: Mapping[str, Array]) -> str | None:
        """Run one step and name the first result in it that holds a NaN or an infinity.

        For a step that went wrong: it is slower than `run`. Params, states and results of packed
        types are not looked at.

        Returns:
            The value and its node's op and scope, for people; None if all is finite.
        """
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

    @property
    def footprint(self) -> Footprint:
        """What its kernels make of the memory of nodes."""
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

    def read_all(self, names: Sequence[str]) -> dict[str, Array]:
        """The present contents of many persistent plain tensors, by name."""
        ...

    def compile(self, graph: Graph) -> Program:
        """Prepare a graph. Its weights, params and states must be loaded before it runs."""
        ...
