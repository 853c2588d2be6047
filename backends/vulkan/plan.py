"""From a graph to a schedule: calls, memory, barriers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations

from ...graph.ir import Graph, Role, Value
from ...graph.program import ArenaUse
from ...graph.types import GraphError
from .barriers import insert_barriers
from .inplace import taken_places
from .kernels import kernel
from .limits import Limits
from .lowering import lower_calls
from .lowering.calls import Call, Lowering, Part
from .memory import Interval, live_lower_bound, place
from .schedule import Access, Barrier, Binding, Buffer, Dispatch, Kind, Schedule, Slice

_ROOM = 0.02
"""Part of the lower bound that arenas may take beyond it, so that fewer calls wait for another."""

_KINDS = {
    Role.INPUT: Kind.INPUT,
    Role.WEIGHT: Kind.WEIGHT,
    Role.PARAM: Kind.STATE,
    Role.STATE: Kind.STATE,
}


@dataclass(frozen=True)
class Plan:
    """A schedule and where a graph's values are in it.

    Attributes:
        schedule: what to run.
        slices: of every input and output of the graph, of every value in between, and of scratch.
        intervals: lifetimes of what lies in arenas, in dispatches.
        homes: of every value, the interval or buffer that it shares with its views and with those
            that take its place.
        lower_bound: bytes of the values that are alive at once, which the arenas need at least.

    Its text is the schedule's under a line on memory.
    """

    schedule: Schedule
    slices: dict[str, Slice]
    intervals: tuple[Interval, ...]
    homes: dict[str, str]
    lower_bound: int

    @property
    def arena_bytes(self) -> int:
        """Bytes of all arenas."""
        return sum(b.size for b in self.schedule.buffers if b.kind is Kind.ARENA)

    @property
    def arenas(self) -> ArenaUse:
        """What the arenas take and what they need at least."""
        return ArenaUse(self.arena_bytes, self.lower_bound)

    def __str__(self) -> str:
        return f"// arenas: {self.arenas}\n{self.schedule}"


def make_plan(graph: Graph, limits: Limits) -> Plan:
    """Lower a graph for a device.

    Raises:
        BitgraphError: an op has no kernel, or a value is too large for the device.
    """
    return plan_calls(graph, lower_calls(graph, limits))


def plan_calls(graph: Graph, lowering: Lowering) -> Plan:
    """Give the calls that a graph was lowered to memory and an order.

    Raises:
        BitgraphError: a value is too large for the device.
    """
    limits = lowering.limits
    homes = _Homes(graph, lowering)
    intervals = homes.intervals(lowering.calls)
    bound = live_lower_bound(intervals, limits.alignment)
    placement = place(_widened(intervals, lowering.calls, homes), limits)
    if placement.size > (1 + _ROOM) * bound:
        placement = place(intervals, limits)
    slices = {**homes.outside, **placement.slices}
    dispatches = [_dispatch(call, homes, slices) for call in lowering.calls]
    buffers = (*homes.buffers, *placement.arenas)
    schedule = Schedule(graph.name, buffers, insert_barriers(dispatches))
    named = {
        value.name: homes.locate(Part(value, 0, value.type), slices)
        for value in homes.values(graph)
        if homes.root(value).name in slices
    }
    everything = {**placement.slices, **named}
    shared = {value.name: homes.root(value).name for value in homes.values(graph)}
    return Plan(schedule, everything, tuple(intervals), shared, bound)


class _Homes:
    """Which memory each value lives in.

    A view lives where its source does, a value that takes another's place lives there too, by an
    alias of the graph or because a kernel works in place; inputs and outputs of the graph have
    buffers of their own.
    """

    def __init__(self, graph: Graph, lowering: Lowering) -> None:
        self._views = lowering.views
        self._donors = dict(lowering.donors)
        self.buffers: list[Buffer] = []
        self.outside: dict[str, Slice] = {}
        for item in graph.inputs:
            self._own(item.value, _KINDS[item.role])
        for value in graph.outputs:
            if self.root(value).name not in self.outside:
                self._own(self.root(value), Kind.OUTPUT)
        self._donors |= taken_places(lowering.calls, self.root, self.outside)

    def _own(self, value: Value, kind: Kind) -> None:
        self.buffers.append(Buffer(value.name, value.type.nbytes, kind))
        self.outside[value.name] = Slice(value.name, 0, value.type.nbytes)

    def root(self, value: Value) -> Value:
        """The value whose memory this one uses."""
        while value.name in self._views or value.name in self._donors:
            value = self._views.get(value.name) or self._donors[value.name]
        return value

    def locate(self, part: Part, slices: dict[str, Slice]) -> Slice:
        """The bytes of a part."""
        home = slices[self.root(part.value).name]
        return Slice(home.buffer, home.offset + part.offset, part.type.nbytes)

    def intervals(self, calls: list[Call]) -> list[Interval]:
        """Lifetimes of the values that have no buffer of their own, in calls."""
        spans: dict[str, Interval] = {}
        for position, call in enumerate(calls):
            for operand in call.operands:
                root = self.root(operand.part.value)
                if root.name in self.outside:
                    continue
                begin = spans[root.name].begin if root.name in spans else position
                spans[root.name] = Interval(root.name, root.type.nbytes, begin, position)
        return list(spans.values())

    @staticmethod
    def values(graph: Graph) -> list[Value]:
        """All values of a graph."""
        return [i.value for i in graph.inputs] + [v for n in graph.nodes for v in n.outputs]


def _widened(intervals: Sequence[Interval], calls: Sequence[Call], homes: _Homes) -> list[Interval]:
    """Lifetimes from barrier to barrier: with these, calls only wait for what they read.

    Else a value may lie where a call that need not come first still reads, and wait for it.
    """
    places = homes.outside | {item.name: Slice(item.name, 0, item.size) for item in intervals}
    commands = insert_barriers(_placed(c, homes, places) for c in calls)
    barriers = accumulate(isinstance(command, Barrier) for command in commands)
    stages = [n for n, c in zip(barriers, commands, strict=True) if isinstance(c, Dispatch)]
    begins = {stage: k for k, stage in reversed(list(enumerate(stages)))}
    ends = {stage: k for k, stage in enumerate(stages)}
    return [
        replace(item, begin=begins[stages[item.begin]], end=ends[stages[item.end]])
        for item in intervals
    ]


def _placed(call: Call, homes: _Homes, slices: dict[str, Slice]) -> Dispatch:
    bindings = tuple(
        Binding(homes.locate(operand.part, slices), operand.access) for operand in call.operands
    )
    return Dispatch(call.kernel, call.constants, bindings, call.groups, call.label)


def _dispatch(call: Call, homes: _Homes, slices: dict[str, Slice]) -> Dispatch:
    dispatch = _placed(call, homes, slices)
    named = zip(kernel(call.kernel).parameters, dispatch.bindings, strict=True)
    for (first, a), (second, b) in combinations(named, 2):
        in_place = a.slice == b.slice and (first.name in second.over or second.name in first.over)
        reading = a.access is b.access is Access.READ
        if a.slice.overlaps(b.slice) and not reading and not in_place:
            raise GraphError(f"{call.kernel} at {call.label} binds the same bytes twice")
    return dispatch
