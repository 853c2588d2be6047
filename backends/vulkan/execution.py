"""A plan as pictures show it."""

from ...graph.export.execution import Execution, Launch, Range, Span
from .plan import Plan
from .schedule import Barrier, Dispatch, Kind, Slice


def execution_of(plan: Plan) -> Execution:
    """The dispatches of a plan and its memory over time."""
    launches: list[Launch] = []
    barrier = False
    for command in plan.schedule.commands:
        if isinstance(command, Barrier):
            barrier = True
        else:
            launches.append(_launch(command, barrier))
            barrier = False
    tenants: dict[str, list[str]] = {}
    for name, home in plan.homes.items():
        tenants.setdefault(home, []).append(name)
    spans = tuple(
        Span(
            tuple(tenants.get(item.name, [item.name])),
            _range(plan.slices[item.name]),
            item.begin,
            item.end,
        )
        for item in plan.intervals
    )
    arenas = tuple((b.name, b.size) for b in plan.schedule.buffers if b.kind is Kind.ARENA)
    places = {name: _range(place) for name, place in plan.slices.items()}
    return Execution(tuple(launches), spans, arenas, places, str(plan))


def _launch(dispatch: Dispatch, barrier: bool) -> Launch:
    return Launch(
        result=dispatch.label.rpartition(":")[2],
        kernel=dispatch.kernel,
        constants=", ".join(f"{name}={value}" for name, value in dispatch.specialization),
        groups=dispatch.groups,
        bindings=tuple((str(b.access), _range(b.slice)) for b in dispatch.bindings),
        barrier=barrier,
    )


def _range(place: Slice) -> Range:
    return Range(place.buffer, place.offset, place.size)
