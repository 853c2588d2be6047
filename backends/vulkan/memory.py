"""Memory planning: every value of a schedule gets its bytes.

Values from outside have buffers of their own. All others share arenas: two values may have the same
bytes if no call needs both. Placing them one after the other is the usual approximation, and which
comes first decides how good it is: the largest value, or those of the position where most bytes are
alive (greedy by size and by breadth in Pisarchyk and Lee, "Efficient memory management for deep
neural net inference", 2020). Both are tried.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...graph.errors import BitgraphError
from ...graph.tensors import Array
from .limits import Limits
from .schedule import Buffer, Kind, Slice


@dataclass(frozen=True)
class Interval:
    """A value that needs memory.

    Attributes:
        name: of the value.
        size: in bytes.
        begin: position of the first call that uses it.
        end: position of the last one.
    """

    name: str
    size: int
    begin: int
    end: int


@dataclass(frozen=True)
class Placement:
    """Where values lie: slices by name, and the arenas they lie in."""

    slices: dict[str, Slice]
    arenas: tuple[Buffer, ...]

    @property
    def size(self) -> int:
        """Bytes of all arenas."""
        return sum(arena.size for arena in self.arenas)


def place(intervals: Sequence[Interval], limits: Limits) -> Placement:
    """Give every value a slice of an arena, in the order that takes the fewest bytes in all.

    Raises:
        BitgraphError: a value is larger than the device allows.
    """
    for item in intervals:
        if item.size > limits.max_range:
            raise BitgraphError(
                f"%{item.name} takes {item.size:,} bytes, but the device binds at most "
                f"{limits.max_range:,} at once; choose a smaller batch"
            )
    placements = (_place_in_order(order, limits) for order in _orders(intervals))
    return min(placements, key=lambda placement: placement.size)


def live_lower_bound(intervals: Sequence[Interval], alignment: int = 1) -> int:
    """Bytes of the values that are alive at once, at the worst position: no plan needs less.

    Args:
        intervals: of the values.
        alignment: every value's size is rounded up to a multiple of it, as `place` does.
    """
    return int(_live_bytes(intervals, alignment).max(initial=0))


def _orders(intervals: Sequence[Interval]) -> Iterator[list[Interval]]:
    """Orders in which to place intervals: by size, and by the most bytes alive at their time."""
    yield sorted(intervals, key=lambda item: (-item.size, item.begin, item.name))
    live = _live_bytes(intervals)
    breadth = {item.name: int(live[item.begin : item.end + 1].max()) for item in intervals}
    yield sorted(intervals, key=lambda i: (-breadth[i.name], -i.size, i.begin, i.name))


def _live_bytes(intervals: Sequence[Interval], alignment: int = 1) -> Array:
    """Bytes alive at each position, int64."""
    change = np.zeros(max((item.end for item in intervals), default=-1) + 2, dtype=np.int64)
    for item in intervals:
        size = _aligned(item.size, alignment)
        change[item.begin] += size
        change[item.end + 1] -= size
    return np.cumsum(change)


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _place_in_order(order: Sequence[Interval], limits: Limits) -> Placement:
    """Place intervals one by one, each in the first arena and at the lowest offset that is free."""
    arenas: list[_Arena] = []
    slices: dict[str, Slice] = {}
    for item in order:
        size = _aligned(item.size, limits.alignment)
        number, offset = _first_fit(arenas, item, size, limits.max_allocation)
        if number == len(arenas):
            arenas.append(_Arena(len(order)))
        arenas[number].add(item, offset, size)
        slices[item.name] = Slice(f"arena{number}", offset, item.size)
    buffers = tuple(Buffer(f"arena{k}", a.size, Kind.ARENA) for k, a in enumerate(arenas))
    return Placement(slices, buffers)


def _first_fit(
    arenas: Sequence["_Arena"], item: Interval, size: int, limit: int
) -> tuple[int, int]:
    """The first arena that has room, and where; the number after the last if none has."""
    for number, arena in enumerate(arenas):
        offset = arena.offset_for(item, size, limit)
        if offset is not None:
            return number, offset
    return len(arenas), 0


class _Arena:
    """Intervals placed so far, as columns: begin, end, offset, offset + size."""

    def __init__(self, capacity: int) -> None:
        self._placed = np.zeros((capacity, 4), dtype=np.int64)
        self._count = 0
        self.size = 0

    def offset_for(self, item: Interval, size: int, limit: int) -> int | None:
        """The lowest free offset, None if there is none below the limit."""
        placed = self._placed[: self._count]
        alive = placed[(placed[:, 0] <= item.end) & (placed[:, 1] >= item.begin)]
        alive = alive[np.argsort(alive[:, 2])]
        tops = np.maximum.accumulate(alive[:, 3]) if len(alive) else alive[:, 3]
        floors = np.concatenate([[0], tops])
        ceilings = np.concatenate([alive[:, 2], [limit]])
        fits = np.flatnonzero(ceilings - floors >= size)
        return int(floors[fits[0]]) if fits.size else None

    def add(self, item: Interval, offset: int, size: int) -> None:
        self._placed[self._count] = (item.begin, item.end, offset, offset + size)
        self._count += 1
        self.size = max(self.size, offset + size)
