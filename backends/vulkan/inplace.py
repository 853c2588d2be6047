"""Results that take the place of an operand which nothing reads again.

A kernel that reads an element of an operand before it writes the same element of its result, in the
same invocation, says so at its head (`Parameter.over`). Such a result may have the operand's bytes,
so that a residual sum grows where it is. The condition is checked call by call, as a node may be
cut into several.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...graph.ir import Value
from .kernels import Parameter, kernel
from .lowering.calls import Call, Part


@dataclass(frozen=True)
class _Use:
    """What a call at a position does with a part of a value."""

    position: int
    part: Part
    parameter: Parameter


def taken_places(
    calls: Sequence[Call], root: Callable[[Value], Value], outside: Container[str]
) -> dict[str, Value]:
    """For results that can take the place of an operand, by name, the value whose place that is.

    Args:
        calls: of a graph, in order.
        root: the value whose bytes a value uses so far.
        outside: names of roots that have buffers of their own: these neither take nor give a place.
    """
    uses = _uses_by_root(calls, root)
    places: dict[str, Value] = {}
    given: set[str] = set()
    for old, new in _candidates(calls, root):
        free = old.name not in given and new.name not in places
        inside = old.name not in outside and new.name not in outside
        if free and inside and _follows(uses[old.name], uses[new.name], old, new):
            places[new.name] = old
            given.add(old.name)
    return places


def _uses_by_root(calls: Sequence[Call], root: Callable[[Value], Value]) -> dict[str, list[_Use]]:
    uses: dict[str, list[_Use]] = defaultdict(list)
    for position, call in enumerate(calls):
        for parameter, operand in zip(kernel(call.kernel).parameters, call.operands, strict=True):
            uses[root(operand.part.value).name].append(_Use(position, operand.part, parameter))
    return uses


def _candidates(
    calls: Sequence[Call], root: Callable[[Value], Value]
) -> Iterator[tuple[Value, Value]]:
    """Operands and the results that their kernels let lie over them."""
    for call in calls:
        parameters = kernel(call.kernel).parameters
        values = {p.name: o.part.value for p, o in zip(parameters, call.operands, strict=True)}
        for parameter in parameters:
            for name in parameter.over:
                yield root(values[name]), root(values[parameter.name])


def _follows(old_uses: list[_Use], new_uses: list[_Use], old: Value, new: Value) -> bool:
    """Whether the last uses of one value and the first of another are one pass over both.

    From the first call that uses `new` to the last that uses `old`, every call that uses either
    must read a run of one and write the same run of the other, and no run twice.
    """
    first, last = new_uses[0].position, old_uses[-1].position
    if old.type.nbytes != new.type.nbytes or last < first:
        return False
    reads = [use for use in old_uses if use.position >= first]
    writes = [use for use in new_uses if use.position <= last]
    runs = {use.position: use for use in writes}
    if len(runs) != len(writes) or {use.position for use in reads} != set(runs):
        return False
    same = all(
        read.parameter.name in runs[read.position].parameter.over
        and _range(read) == _range(runs[read.position])
        for read in reads
    )
    ranges = sorted(_range(use) for use in writes)
    return same and all(end <= begin for (_, end), (begin, _) in pairwise(ranges))


def _range(use: _Use) -> tuple[int, int]:
    """First byte and the one behind the last."""
    return use.part.offset, use.part.offset + use.part.type.nbytes
