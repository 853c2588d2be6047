"""Runs a schedule with NumPy, as badly as a device may: poisoned memory, dispatches shuffled.

Between two barriers a device may run dispatches in any order. Here they run in a random one, and
what nobody has written is NaN; so a missing barrier, a lifetime that ends too early or a read of
memory that was never written changes the result.
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
from .schedule import Barrier, Command, Dispatch
from .window import MEANINGS as WINDOW_MEANINGS

_POISON = 0xFF


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
    """Execute commands on buffers, those between two barriers in a random order."""
    for is_barrier, group in groupby(commands, key=lambda c: isinstance(c, Barrier)):
        if is_barrier:
            continue
        dispatches = [c for c in group if isinstance(c, Dispatch)]
        for k in rng.permutation(len(dispatches)):
            _run_dispatch(dispatches[k], memory)


def _run_dispatch(dispatch: Dispatch, memory: Mapping[str, Bytes]) -> None:
    constants = dict(dispatch.specialization)
    operands: dict[str, HostValue] = {}
    for parameter, binding in zip(
        kernel(dispatch.kernel).parameters, dispatch.bindings, strict=True
    ):
        place = binding.slice
        data = memory[place.buffer][place.offset : place.offset + place.size]
        operands[parameter.name] = view(data, parameter.type(constants))
    with np.errstate(all="ignore"):  # poison that a faulty schedule reads may be anything
        meaning = WINDOW_MEANINGS.get(dispatch.kernel) or meaning_of(dispatch.kernel)
        meaning(constants, operands)
