"""What tests of the command line train on, and what they read back."""

import json
from dataclasses import dataclass
from pathlib import Path

RECORDS = [
    {"instruction": f"What is {word}?", "input": "", "output": answer}
    for word, answer in (
        ("hot", "cold"),
        ("up", "down"),
        ("left", "right"),
        ("in", "out"),
        ("old", "new"),
        ("big", "small"),
    )
]


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    code: object
    out: str
    err: str


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a folder and below it, by path."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def read_metrics(folder: Path) -> list[dict[str, object]]:
    """The records of a run; every line must be complete."""
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def without_times(folder: Path) -> list[dict[str, object]]:
    """The records of what happened in a run, without the seconds that it took."""
    records = [r for r in read_metrics(folder) if r["event"] in ("step", "eval", "checkpoint")]
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def results(folder: Path) -> dict[str, bytes]:
    """The adapters and checkpoints of a run; other files tell of times and of the folder."""
    kept = ("adapter_", "best/", "checkpoints/")
    return {name: data for name, data in files_of(folder).items() if name.startswith(kept)}
