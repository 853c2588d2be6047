"""From a graph to a schedule: calls, memory, barriers."""

from dataclasses import dataclass

from ...graph.ir import Graph, Node, Role, Value
from ...graph.types import GraphError
from .barriers import insert_barriers
from .limits import Limits
from .lowering import RULES, lower_calls
from .lowering.calls import Call, Lowering, Part
from .memory import Interval, live_lower_bound, place
from .schedule import Binding, Buffer, Dispatch, Kind, Schedule, Slice

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
        slices: of every input and output of the graph, and of every value in between.
        lower_bound: bytes that the arenas need at least.
    """

    schedule: Schedule
    slices: dict[str, Slice]
    lower_bound: int

    @property
    def arena_bytes(self) -> int:
        """Bytes of all arenas."""
        return sum(b.size for b in self.schedule.buffers if b.kind is Kind.ARENA)


def make_plan(graph: Graph, limits: Limits) -> Plan:
    """Lower a graph for a device.

    Raises:
        BitgraphError: an op has no kernel, or a value is too large for the device.
    """
    lowering = lower_calls(graph, limits)
    homes = _Homes(graph, lowering)
    intervals = homes.intervals(lowering.calls)
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
    return Plan(schedule, named, live_lower_bound(intervals))


def workspace_bytes(node: Node, limits: Limits) -> int:
    """Bytes of scratch that a node's calls need at once; 0 for an op without a kernel."""
    lowering = Lowering(limits, {})
    if node.op in RULES:
        RULES[node.op](lowering, node)
    known = {value.name for value in (*node.inputs, *node.outputs)}
    spans: dict[str, Interval] = {}
    for position, call in enumerate(lowering.calls):
        for value in (operand.part.value for operand in call.operands):
            if value.name not in known:
                begin = spans[value.name].begin if value.name in spans else position
                spans[value.name] = Interval(value.name, value.type.nbytes, begin, position)
    return live_lower_bound(list(spans.values()))


class _Homes:
    """Which memory each value lives in.

    A view lives where its source does, a value that takes another's place lives there too; inputs
    and outputs of the graph have buffers of their own.
    """

    def __init__(self, graph: Graph, lowering: Lowering) -> None:
        self._views = lowering.views
        self._donors = lowering.donors
        self.buffers: list[Buffer] = []
        self.outside: dict[str, Slice] = {}
        for item in graph.inputs:
            self._own(item.value, _KINDS[item.role])
        for value in graph.outputs:
            if self.root(value).name not in self.outside:
                self._own(self.root(value), Kind.OUTPUT)

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


def _dispatch(call: Call, homes: _Homes, slices: dict[str, Slice]) -> Dispatch:
    bindings = tuple(
        Binding(homes.locate(operand.part, slices), operand.access) for operand in call.operands
    )
    for k, binding in enumerate(bindings):
        for other in bindings[k + 1 :]:
            if binding.slice.overlaps(other.slice) and {binding.access, other.access} != {"read"}:
                raise GraphError(f"{call.kernel} at {call.label} binds the same bytes twice")
    return Dispatch(call.kernel, call.constants, bindings, call.groups, call.label)
