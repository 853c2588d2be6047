"""Runs a schedule with NumPy, as badly as a device may: poisoned memory, dispatches shuffled.

Between two barriers a device may run dispatches in any order, and side by side. Here they run in a
random order, half of them on what memory held before any of them wrote, and what nobody has written
is NaN; so a missing barrier, a lifetime that ends too early or a read of memory that was never
written changes the result.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from ...graph.ir import Graph
from ...graph.tensors import HostValue
from .kernels import kernel
from .layout import Bytes, to_bytes, view
from .lowering import meaning_of
from .plan import Plan
from .schedule import Access, Barrier, Binding, Command, Dispatch
from .watch import MEANINGS as WATCH_MEANINGS
from .window import MEANINGS as WINDOW_MEANINGS

_POISON = 0xFF
_MEANINGS = {**WATCH_MEANINGS, **WINDOW_MEANINGS}


def run_plan(
    plan: Plan, graph: Graph, values: Mapping[str, HostValue], rng: np.random.Generator
) -> dict[str, HostValue]:
    """Execute a plan.

    Args:
        plan: of the graph.
        graph: tells the types of inputs and outputs.
        values: one for each input of the graph.
        rng: decides the order between barriers.

    Returns:
        The graph's outputs, those that took an input's place included.
    """
    memory = {b.name: np.full(b.size, _POISON, np.uint8) for b in plan.schedule.buffers}
    for item in graph.inputs:
        memory[item.value.name][:] = to_bytes(values[item.value.name])
    run_commands(plan.schedule.commands, memory, rng)
    results: dict[str, HostValue] = {}
    for value in graph.outputs:
        place = plan.slices[value.name]
        data = memory[place.buffer][place.offset : place.offset + place.size]
        results[value.name] = view(data.copy(), value.type)
    return results


def run_commands(
    commands: Sequence[Command], memory: Mapping[str, Bytes], rng: np.random.Generator
) -> None:
    """Execute commands on buffers, those between two barriers as badly as they may run."""
    for is_barrier, group in groupby(commands, key=lambda c: isinstance(c, Barrier)):
        if is_barrier:
            continue
        dispatches = [c for c in group if isinstance(c, Dispatch)]
        count = len(dispatches)
        hasty = {k: _copies(dispatches[k], memory) for k in rng.permutation(count)[: count // 2]}
        for k in rng.permutation(count):
            if k in hasty:
                _run_on_copies(dispatches[k], hasty[k], memory)
            else:
                _run(dispatches[k], [_bytes(b, memory) for b in dispatches[k].bindings])


def _bytes(binding: Binding, memory: Mapping[str, Bytes]) -> Bytes:
    place = binding.slice
    return memory[place.buffer][place.offset : place.offset + place.size]


def _copies(dispatch: Dispatch, memory: Mapping[str, Bytes]) -> list[Bytes]:
    return [_bytes(binding, memory).copy() for binding in dispatch.bindings]


def _run_on_copies(
    dispatch: Dispatch, copies: Sequence[Bytes], memory: Mapping[str, Bytes]
) -> None:
    """Run a dispatch on what it has read before; only what it writes reaches the memory now."""
    _run(dispatch, copies)
    for binding, data in zip(dispatch.bindings, copies, strict=True):
        if binding.access is not Access.READ:
            _bytes(binding, memory)[:] = data


def _run(dispatch: Dispatch, data: Sequence[Bytes]) -> None:
    constants = dict(dispatch.specialization)
    parameters = kernel(dispatch.kernel).parameters
    operands: dict[str, HostValue] = {
        parameter.name: view(some, parameter.type(constants))
        for parameter, some in zip(parameters, data, strict=True)
    }
    with np.errstate(all="ignore"):  # poison that a faulty schedule reads may be anything
        meaning = _MEANINGS.get(dispatch.kernel) or meaning_of(dispatch.kernel)
        meaning(constants, operands)
