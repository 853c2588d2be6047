"""How fast a run is."""

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

RECENT = 20
"""Steps that the speed of the moment is taken over."""


class Step(Protocol):
    """What is counted of a step: a `StepReport`."""

    @property
    def tokens(self) -> int: ...  # noqa: D102
    @property
    def supervised(self) -> int: ...  # noqa: D102
    @property
    def slots(self) -> int: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102


@dataclass
class Throughput:
    """Tokens and seconds of the steps of a run.

    The first step of a run is left out of the mean as soon as there is another, because programs
    are compiled in it.
    """

    steps: list[Step] = field(default_factory=list)
    last: deque[Step] = field(default_factory=lambda: deque(maxlen=RECENT))

    def add(self, step: Step) -> None:
        """Count a step."""
        self.steps.append(step)
        self.last.append(step)

    def recent(self) -> float:
        """Real tokens a second of the last steps."""
        return sum(s.tokens for s in self.last) / sum(s.seconds for s in self.last)

    def summary(self) -> str:
        """Supervised, real and padded tokens a second of the run, in words."""
        steps = self.steps[1:] or self.steps
        seconds = sum(step.seconds for step in steps)
        supervised, real, padded = (
            sum(getattr(step, name) for step in steps) / seconds
            for name in ("supervised", "tokens", "slots")
        )
        return (
            f"{supervised:,.0f} supervised, {real:,.0f} real, {padded:,.0f} padded tokens/s; "
            f"{real / padded:.0%} of what was computed were real tokens"
        )
