"""What a device does with a graph, as far as it is shown: dispatches, and memory over time."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Range:
    """Bytes of a buffer."""

    buffer: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.buffer}[{self.offset}:{self.offset + self.size}]"


@dataclass(frozen=True)
class Launch:
    """One dispatch.

    Attributes:
        result: first result of the node that it belongs to.
        kernel: name of the kernel.
        constants: as ``NAME=value, …``.
        groups: workgroups in x, y and z.
        bindings: how each operand is used and where it lies.
        barrier: whether a barrier stands before it.
    """

    result: str
    kernel: str
    constants: str
    groups: tuple[int, int, int]
    bindings: tuple[tuple[str, Range], ...]
    barrier: bool


@dataclass(frozen=True)
class Span:
    """A place in an arena, from the first dispatch that uses it to the last one.

    Attributes:
        names: of the values that lie there: one, its views, and those that take its place.
        range: the bytes.
        begin: position of the first dispatch.
        end: position of the last one.
    """

    names: tuple[str, ...]
    range: Range
    begin: int
    end: int

    @property
    def title(self) -> str:
        """The names, or the first of many."""
        few = ", ".join(self.names[:3])
        return few if len(self.names) < 4 else f"{few} and {len(self.names) - 3} more"


@dataclass(frozen=True)
class Execution:
    """A planned step.

    Attributes:
        launches: in order.
        spans: of all that lies in arenas, scratch included.
        arenas: their names and sizes.
        places: where values lie, by name.
        text: the schedule as text.
    """

    launches: tuple[Launch, ...]
    spans: tuple[Span, ...]
    arenas: tuple[tuple[str, int], ...]
    places: dict[str, Range]
    text: str

    @property
    def arena_bytes(self) -> int:
        """Bytes of all arenas."""
        return sum(size for _, size in self.arenas)

    def live_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of the values alive at each dispatch."""
        change = np.zeros(len(self.launches) + 1, np.int64)
        for span in self.spans:
            change[span.begin] += span.range.size
            change[span.end + 1] -= span.range.size
        live: npt.NDArray[np.int64] = np.cumsum(change)[:-1]
        return live
