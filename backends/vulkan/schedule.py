"""The schedule: what a device is told to do, as pure data.

A schedule is a list of dispatches and barriers over named buffers. It knows no Vulkan; it can be
printed, planned and executed without a device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Kind(StrEnum):
    """What a buffer is for.

    ARENA and SCRATCH hold what lives within a step; arenas may be shared by schedules. All others
    belong to somebody outside.
    """

    WEIGHT = "weight"
    STATE = "state"
    INPUT = "input"
    OUTPUT = "output"
    ARENA = "arena"
    SCRATCH = "scratch"


class Access(StrEnum):
    """What a dispatch does with a slice."""

    READ = "read"
    WRITE = "write"
    UPDATE = "update"


@dataclass(frozen=True)
class Buffer:
    """A buffer of the device.

    Attributes:
        name: unique in the schedule; that of the graph's input where it holds one.
        size: in bytes.
        kind: what it is for.
    """

    name: str
    size: int
    kind: Kind


@dataclass(frozen=True)
class Slice:
    """A byte range of a buffer."""

    buffer: str
    offset: int
    size: int

    def overlaps(self, other: "Slice") -> bool:
        """Whether the two share a byte."""
        return (
            self.buffer == other.buffer
            and self.offset < other.offset + other.size
            and other.offset < self.offset + self.size
        )


@dataclass(frozen=True)
class Binding:
    """A slice as a dispatch sees it, at the index of its place among the bindings."""

    slice: Slice
    access: Access


@dataclass(frozen=True)
class Dispatch:
    """One run of a kernel.

    Attributes:
        kernel: name of the shader file, without its suffix.
        specialization: values of the shader's specialization constants, by name, sorted.
        bindings: storage buffers, in the order of their binding numbers.
        groups: workgroups in x, y and z.
        label: what it computes, for people and for error messages.
    """

    kernel: str
    specialization: tuple[tuple[str, int | float], ...]
    bindings: tuple[Binding, ...]
    groups: tuple[int, int, int]
    label: str = ""


@dataclass(frozen=True)
class Barrier:
    """Everything written before it is seen by everything after it."""


Command: TypeAlias = Dispatch | Barrier


@dataclass(frozen=True)
class Schedule:
    """Commands over buffers; `str()` prints one command a line."""

    name: str
    buffers: tuple[Buffer, ...]
    commands: tuple[Command, ...]

    @property
    def dispatches(self) -> tuple[Dispatch, ...]:
        """The commands without the barriers."""
        return tuple(c for c in self.commands if isinstance(c, Dispatch))

    def __str__(self) -> str:
        return "\n".join(_lines(self)) + "\n"


def _lines(schedule: Schedule) -> Iterator[str]:
    yield f"schedule @{schedule.name} {{"
    for buffer in schedule.buffers:
        yield f"  {buffer.kind} %{buffer.name}: {buffer.size}"
    for command in schedule.commands:
        if isinstance(command, Barrier):
            yield "  barrier"
        else:
            constants = ", ".join(f"{name}={value}" for name, value in command.specialization)
            slices = ", ".join(
                f"{b.access} %{b.slice.buffer}[{b.slice.offset}:{b.slice.offset + b.slice.size}]"
                for b in command.bindings
            )
            x, y, z = command.groups
            yield f"  {command.kernel}<{constants}>({slices}) groups={x}x{y}x{z} @{command.label}"
    yield "}"
