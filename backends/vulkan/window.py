"""Windows: one recording serves many steps, each with inputs of its own.

The inputs of the coming steps are uploaded together. A step begins by fetching its inputs at the
cursor, a counter on the device, and ends by storing its outputs there and moving the cursor on; so
nothing is uploaded between steps, and a recording can be submitted again and again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ...graph.ir import Graph, Role
from ...graph.tensors import HostValue
from .barriers import insert_barriers
from .limits import Limits
from .lowering.calls import Meaning, groups_for
from .plan import Plan
from .schedule import Access, Binding, Buffer, Dispatch, Kind, Schedule, Slice

CURSOR = "cursor"

_GROUP = 256

_STEPS = 64
"""Most steps of a window."""

_BYTES = 1 << 24
"""Most bytes that one input or output takes for all steps of a window."""


def window_of(name: str) -> str:
    """Buffer that holds an input for many steps."""
    return f"{name}.window"


def log_of(name: str) -> str:
    """Buffer that holds an output of many steps."""
    return f"{name}.log"


def window_steps(graph: Graph) -> int:
    """How many steps a window holds: fewer where inputs or outputs are large."""
    donated = {alias.output for alias in graph.aliases}
    logged = (value for value in graph.outputs if value.name not in donated)
    moving = (*graph.inputs_of(Role.INPUT), *logged)
    largest = max((value.type.nbytes for value in moving), default=4)
    return max(1, min(_STEPS, _BYTES // largest))


def with_window(plan: Plan, steps: int, limits: Limits) -> Plan:
    """Let every run of a plan take the next of up to `steps` inputs and keep its outputs.

    Buffers of kind INPUT become scratch, fed from windows; those of kind OUTPUT are kept in logs.
    """
    buffers = {buffer.name: buffer for buffer in plan.schedule.buffers}
    cursor = _whole(Buffer(CURSOR, 4, Kind.STATE))
    before: list[Dispatch] = []
    after: list[Dispatch] = []
    for buffer in plan.schedule.buffers:
        if buffer.kind not in (Kind.INPUT, Kind.OUTPUT):
            continue
        incoming = buffer.kind is Kind.INPUT
        name = window_of(buffer.name) if incoming else log_of(buffer.name)
        many = Buffer(name, steps * buffer.size, buffer.kind)
        buffers[name] = many
        buffers[buffer.name] = replace(buffer, kind=Kind.SCRATCH)
        constants = (("STEPS", steps), ("WORDS", buffer.size // 4))
        groups = groups_for(buffer.size // 4, _GROUP, limits)
        if incoming:
            bindings = _bind((cursor, "read"), (_whole(many), "read"), (_whole(buffer), "write"))
            before.append(Dispatch("fetch", constants, bindings, groups, f"fetch:{buffer.name}"))
        else:
            bindings = _bind((cursor, "read"), (_whole(buffer), "read"), (_whole(many), "update"))
            after.append(Dispatch("store", constants, bindings, groups, f"store:{buffer.name}"))
    buffers[CURSOR] = Buffer(CURSOR, 4, Kind.STATE)
    advance = Dispatch("advance", (), _bind((cursor, "update")), (1, 1, 1), "advance")
    dispatches = (*before, *plan.schedule.dispatches, *after, advance)
    schedule = Schedule(plan.schedule.name, tuple(buffers.values()), insert_barriers(dispatches))
    return replace(plan, schedule=schedule)


def _whole(buffer: Buffer) -> Slice:
    return Slice(buffer.name, 0, buffer.size)


def _bind(*items: tuple[Slice, str]) -> tuple[Binding, ...]:
    return tuple(Binding(place, Access(access)) for place, access in items)


def _meanings() -> Iterator[tuple[str, Meaning]]:
    """What the three kernels do; see their files."""

    def fetch(_: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        cursor, window, x = (operands[name] for name in ("cursor", "window", "x"))
        x[...] = window[int(cursor[0])]  # type: ignore[index]

    def store(_: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        cursor, x, log = (operands[name] for name in ("cursor", "x", "log"))
        log[int(cursor[0])] = x  # type: ignore[index]

    def advance(_: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        operands["cursor"][0] += 1  # type: ignore[index]

    yield from (("fetch", fetch), ("store", store), ("advance", advance))


MEANINGS: dict[str, Meaning] = dict(_meanings())
