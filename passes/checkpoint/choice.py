"""Which policy each layer takes: an integer program, solved by HiGHS (Huangfu and Hall, 2018).

One binary variable for each layer and policy. Of each layer one is chosen, at the least time in
all, so that at each moment of the step the memory fits:

    minimize    sum of seconds[layer][policy]
    subject to  own[policy of the layer at work] + sum of saved[policy] of those alive <= budget
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_OPTIONS = {"mip_rel_gap": 1e-3}
"""How far the time may be from the least, as a part of it: the rest takes long to prove."""

GRAIN = 256
"""All sizes are rounded up to multiples of it, so that no tolerance blurs whether they fit."""

_UNIT = float(1 << 20)
"""Memory is counted in MiB, so that the coefficients are of moderate size."""

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moment:
    """A stretch of the step in which the same layers have saved values.

    Attributes:
        layer: the one whose nodes run, None for nodes outside of layers.
        alive: the other layers whose saved values exist.
        own: bytes of everything else at the worst node, for each policy of the layer; one figure if
            there is no layer.
    """

    layer: int | None
    alive: frozenset[int]
    own: tuple[int, ...]


@dataclass(frozen=True)
class Choices:
    """What there is to choose from; all sizes are multiples of `GRAIN`.

    Attributes:
        seconds: for each layer what each of its policies costs.
        saved: for each layer the bytes that each of its policies saves.
        moments: of the step.
    """

    seconds: tuple[tuple[float, ...], ...]
    saved: tuple[tuple[int, ...], ...]
    moments: tuple[Moment, ...]

    def peak(self, chosen: Sequence[int]) -> int:
        """Bytes at the worst moment, if each layer takes the policy of that number."""
        return max((self._at(moment, chosen) for moment in self.moments), default=0)

    def _at(self, moment: Moment, chosen: Sequence[int]) -> int:
        own = moment.own[0 if moment.layer is None else chosen[moment.layer]]
        return own + sum(self.saved[k][chosen[k]] for k in moment.alive)

    def time(self, chosen: Sequence[int]) -> float:
        """Seconds that are computed in addition."""
        return sum(each[k] for each, k in zip(self.seconds, chosen, strict=True))


def cheapest(choices: Choices, budget: int) -> tuple[int, ...] | None:
    """The policies of least time whose peak is within the budget; None if there are none."""
    if not choices.seconds:
        return () if choices.peak(()) <= budget else None
    memory, fixed = _memory(choices)
    seconds = np.concatenate([np.asarray(each, np.float64) for each in choices.seconds])
    longest = max(float(seconds.max(initial=0.0)), 1e-12)
    between = (budget // GRAIN + 0.5) * GRAIN  # what fits is half a grain below, the rest above
    return _solve(choices, seconds / longest, memory, between / _UNIT - fixed)


def smallest(choices: Choices) -> tuple[int, ...]:
    """The policies of least peak, which is one more variable, above the memory of each moment."""
    if not choices.seconds:
        return ()
    memory, fixed = _memory(choices)
    costs = np.append(np.zeros(memory.shape[1]), 1.0)
    below_peak = np.hstack([memory, np.full((len(memory), 1), -1.0)])
    found = _solve(choices, costs, below_peak, -fixed)
    assert found is not None, "without a budget there is always a solution"
    return found


def _memory(choices: Choices) -> tuple[Floats, Floats]:
    """For each moment what each variable adds, [moments, variables], and what is there anyway."""
    first = _first_variables(choices)
    adds = np.zeros((len(choices.moments), first[-1]))
    fixed = np.zeros(len(choices.moments))
    for row, moment in enumerate(choices.moments):
        if moment.layer is None:
            fixed[row] = moment.own[0]
        else:
            adds[row, first[moment.layer] : first[moment.layer + 1]] = moment.own
        for layer in moment.alive:
            adds[row, first[layer] : first[layer + 1]] = choices.saved[layer]
    return adds / _UNIT, fixed / _UNIT


def _first_variables(choices: Choices) -> list[int]:
    """The number of each layer's first variable, and that of all variables."""
    return [0, *accumulate(len(each) for each in choices.seconds)]


def _solve(choices: Choices, costs: Floats, memory: Floats, most: Floats) -> tuple[int, ...] | None:
    """The policy of each layer by an integer program; variables behind the layers' are free.

    Args:
        choices: what there is to choose from.
        costs: of each variable.
        memory: what each variable adds at each moment.
        most: bound of each moment.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to load, seldom needed

    first = _first_variables(choices)
    binary = np.arange(len(costs)) < first[-1]
    constraints = [
        LinearConstraint(memory, ub=most),
        LinearConstraint(_one_policy_each(first, len(costs)), lb=1, ub=1),
        LinearConstraint(_steps_down(choices, first, len(costs)), lb=0),
    ]
    bounds = Bounds(0, np.where(binary, 1, np.inf))
    with _silence():
        result = milp(
            costs, integrality=binary, bounds=bounds, constraints=constraints, options=_OPTIONS
        )
    if result.x is None:
        return None
    return tuple(int(np.argmax(result.x[a:b])) for a, b in pairwise(first))


@contextmanager
def _silence() -> Iterator[None]:
    """Keep HiGHS off the standard output: it prints a line now and then, whatever it is told."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _one_policy_each(first: list[int], variables: int) -> Floats:
    """Rows that count the policies that a layer takes."""
    rows = np.zeros((len(first) - 1, variables))
    for row, (begin, end) in enumerate(pairwise(first)):
        rows[row, begin:end] = 1
    return rows


def _steps_down(choices: Choices, first: list[int], variables: int) -> Floats:
    """Rows that tell how many policies a layer is above the next, if both have the same choices.

    The later one shall save no less: what it saves lives shorter. Without this there are as many
    equal solutions as ways to arrange the policies.
    """
    alike = [k for k, (a, b) in enumerate(pairwise(choices.seconds)) if a == b]
    rows = np.zeros((len(alike), variables))
    for row, layer in enumerate(alike):
        begin, end, after = first[layer : layer + 3]
        rows[row, begin:end] = np.arange(end - begin)
        rows[row, end:after] = -np.arange(after - end)
    return rows
