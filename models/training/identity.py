"""What a run is: its checkpoints fit no other."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ...graph.errors import BitgraphError
from ..data.examples import Example
from .options import TrainingOptions

_FREE: Final = frozenset({"memory_budget"})
"""Options that change no bit of the result."""

_SOURCES: Final[Mapping[str, str]] = {
    "model": "another model (--model)",
    "data": "other training examples (--data and what selects of it)",
    "eval_data": "other evaluation examples (--eval-data, --eval-split)",
}


def run_identity(
    options: TrainingOptions,
    model: str,
    training: Sequence[Example],
    held_out: Sequence[Example],
) -> dict[str, Any]:
    """What has to be the same for a run to go on, as plain JSON.

    Args:
        options: of the run.
        model: digest of the model.
        training: examples to train on, in order.
        held_out: examples to evaluate on, in order.
    """
    return {
        "options": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(options).items()
            if name not in _FREE
        },
        "model": model,
        "data": _digest(training),
        "eval_data": _digest(held_out),
    }


def expect_same(then: Mapping[str, Any], now: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuse to go on with another run.

    Args:
        then: identity of the run that a checkpoint is of.
        now: identity of this run.
        checkpoint: where it lies, for the message.

    Raises:
        BitgraphError: the first thing that differs.
    """
    advice = "give the same, or train into another --out"
    before = dict(then.get("options") or {})
    for name, value in now["options"].items():
        if before.get(name) != value:
            option = name.replace("_", "-")
            raise BitgraphError(
                f"{checkpoint} is of a run whose {option} was {_text(before.get(name))}, not "
                f"{_text(value)}; {advice}"
            )
    for name, what in _SOURCES.items():
        if then.get(name) != now[name]:
            raise BitgraphError(f"{checkpoint} is of a run on {what}; {advice}")


def _text(value: object) -> str:
    """A value as it is given on the command line."""
    return ",".join(map(str, value)) or "empty" if isinstance(value, list) else str(value)


def _digest(examples: Sequence[Example]) -> str:
    """SHA-256 of tokens and of which are trained."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.tokens.size.to_bytes(8, "little"))
        digest.update(example.tokens.astype("<i4").tobytes())
        digest.update(example.trained.tobytes())
    return digest.hexdigest()
