"""Running passes: verified, timed, and written out one by one when asked."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from ..graph.ir import Graph
from ..graph.verify import verify


class Pass(Protocol):
    """A frozen dataclass whose fields are its options, and a pure function of a graph."""

    name: ClassVar[str]

    def __call__(self, graph: Graph) -> Graph:
        """The rewritten graph."""
        ...


@dataclass
class PassManager:
    """Applies passes in order.

    Attributes:
        passes: what to apply.
        on_stage: called with the number, name and graph of each stage, the first being the graph
            as it came in; this is where dumps are written.
        seconds: time that each pass took, by its position and name, filled by `run`.
    """

    passes: Sequence[Pass]
    on_stage: Callable[[int, str, Graph], None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, graph: Graph) -> Graph:
        """Apply every pass and verify what it gives.

        Raises:
            GraphError: the graph does not verify, or a pass cannot be applied to it.
        """
        verify(graph)
        self._report(0, "input", graph)
        for number, step in enumerate(self.passes, 1):
            begin = time.perf_counter()
            graph = step(graph)
            self.seconds[f"{number:02d}-{step.name}"] = time.perf_counter() - begin
            verify(graph)
            self._report(number, step.name, graph)
        return graph

    def _report(self, number: int, name: str, graph: Graph) -> None:
        if self.on_stage is not None:
            self.on_stage(number, name, graph)
