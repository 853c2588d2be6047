"""Learning rates over the steps of a run."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

SCHEDULES: Final[Mapping[str, Callable[[float], float]]] = MappingProxyType(
    {
        "constant": lambda progress: 1.0,
        "linear": lambda progress: 1.0 - progress,
        "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    }
)
"""Share of the largest rate, from the progress behind the warm-up, 0 to 1."""


def warmup_steps(warmup: float, total: int) -> int:
    """Steps of the warm-up: `warmup` itself, or that share of all steps if it is below 1."""
    return math.ceil(warmup * total) if warmup < 1 else int(warmup)


def learning_rate(schedule: str, largest: float, warmup: float, step: int, total: int) -> float:
    """The rate of a step: a linear rise, then the schedule down to the last step.

    Args:
        schedule: a key of `SCHEDULES`.
        largest: the rate at the end of the warm-up.
        warmup: steps, or a share of all steps if it is below 1.
        step: counted from 1.
        total: steps of the run.
    """
    rising = warmup_steps(warmup, total)
    if step <= rising:
        return largest * step / rising
    progress = (step - rising) / max(total - rising, 1)
    return largest * SCHEDULES[schedule](min(progress, 1.0))
