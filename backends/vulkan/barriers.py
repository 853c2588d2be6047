"""Barriers from one scan for hazards: a barrier stands where order matters, and nowhere else."""

from collections import defaultdict
from collections.abc import Iterable

from .schedule import Access, Barrier, Command, Dispatch, Slice


def insert_barriers(dispatches: Iterable[Dispatch]) -> tuple[Command, ...]:
    """Put a barrier before each dispatch that must not overtake one since the last barrier.

    It must not if one writes bytes that the other reads or writes.
    """
    commands: list[Command] = []
    since = _Since()
    for dispatch in dispatches:
        if since.conflicts(dispatch):
            commands.append(Barrier())
            since = _Since()
        commands.append(dispatch)
        since.add(dispatch)
    return tuple(commands)


class _Since:
    """Bytes touched since the last barrier, by buffer."""

    def __init__(self) -> None:
        self._written: dict[str, list[Slice]] = defaultdict(list)
        self._read: dict[str, list[Slice]] = defaultdict(list)

    def add(self, dispatch: Dispatch) -> None:
        for binding in dispatch.bindings:
            if binding.access is not Access.WRITE:
                self._read[binding.slice.buffer].append(binding.slice)
            if binding.access is not Access.READ:
                self._written[binding.slice.buffer].append(binding.slice)

    def conflicts(self, dispatch: Dispatch) -> bool:
        for binding in dispatch.bindings:
            touched = self._written[binding.slice.buffer]
            if any(binding.slice.overlaps(other) for other in touched):
                return True
            if binding.access is not Access.READ:
                touched = self._read[binding.slice.buffer]
                if any(binding.slice.overlaps(other) for other in touched):
                    return True
        return False
