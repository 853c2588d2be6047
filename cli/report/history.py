"""A run as its metrics.jsonl tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models.training.metrics import METRICS, read_metrics

Record = Mapping[str, Any]

_HEAD = frozenset({"event", "step"})


@dataclass(frozen=True)
class History:
    """What happened.

    Attributes:
        settings: the options, as the run last began with them.
        steps: a record for each, in order.
        evaluations: losses on held-out examples.
        data: a record for each set of examples.
        samples: prompts and what was generated.
    """

    settings: Record
    steps: tuple[Record, ...]
    evaluations: tuple[Record, ...]
    data: tuple[Record, ...]
    samples: tuple[Record, ...]

    @property
    def total(self) -> int:
        """Steps that were planned."""
        return int(self.steps[-1]["total"])

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return float(sum(step["seconds"] for step in self.steps))

    @property
    def tokens_per_second(self) -> float:
        """Real tokens; the first step, in which programs are compiled, counts only if alone."""
        steps = self.steps[1:] or self.steps
        return float(sum(s["tokens"] for s in steps) / sum(s["seconds"] for s in steps))


def read_history(folder: Path) -> History | None:
    """The history of the run in a folder, None if none of its steps was finished.

    Raises:
        BitgraphError: its metrics cannot be read.
    """
    records = list(read_metrics(folder / METRICS))
    begins = [record for record in records if record.get("event") in ("start", "resume")]
    steps = _named(records, "step")
    if not begins or not steps:
        return None
    settings = {name: value for name, value in begins[-1].items() if name not in _HEAD}
    data = {record["role"]: record for record in _named(records, "data")}
    samples = {record["number"]: record for record in _named(records, "sample")}
    return History(
        settings, steps, _named(records, "eval"), tuple(data.values()), tuple(samples.values())
    )


def _named(records: list[dict[str, Any]], event: str) -> tuple[Record, ...]:
    return tuple(record for record in records if record.get("event") == event)
