"""metrics.jsonl: a line of JSON for everything that happens in a run."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from ...graph.errors import BitgraphError
from ..data.examples import Example
from ..data.source import PreparedSet
from ..data.statistics import length_statistics
from ..files import atomic_write

METRICS = "metrics.jsonl"


class MetricsFile:
    """Appends records, each on disk when `append` returns.

    Records of steps behind `begin` are removed first: they are of a time that a resumed run does
    not know of. With a `begin` of 0 the file is new.
    """

    def __init__(self, folder: Path, begin: int = 0) -> None:
        self._path = folder / METRICS
        with atomic_write(self._path) as file:
            for record in read_metrics(self._path) if begin else ():
                if record.get("step", 0) <= begin:
                    file.write(json.dumps(record).encode() + b"\n")
        with named(self._path):
            self._file = self._path.open("ab", buffering=0)

    def append(self, record: dict[str, Any]) -> None:
        """Add a record.

        Raises:
            BitgraphError: it cannot be written.
        """
        line = memoryview(json.dumps(record).encode() + b"\n")
        file = self._file.fileno()
        end = os.fstat(file).st_size
        with named(self._path):
            try:
                while line:
                    line = line[os.write(file, line) :]
                os.fsync(file)
            except OSError:
                os.ftruncate(file, end)  # no half of a line
                raise

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, none if it is absent; a last line that was cut off is left out.

    Raises:
        BitgraphError: a line is not a record, or the file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(f"{path} could not be read ({reason}); check the path") from error
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise BitgraphError(f"{path}, line {number} is not a record; remove the line")
        yield record


def data_record(
    role: str, path: Path, prepared: PreparedSet, examples: Sequence[Example]
) -> dict[str, Any]:
    """What is known of a set of examples.

    Args:
        role: what it is used for.
        path: the file it comes from.
        prepared: all examples of that file.
        examples: those of the set, at least one.
    """
    return {
        "event": "data",
        "role": role,
        "file": str(path),
        "format": prepared.format,
        "template": prepared.template,
        "counts": asdict(prepared.encoded.counts),
        "statistics": asdict(length_statistics(examples)),
    }


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn an error of the system into a sentence about a file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(
            f"{path} could not be written ({reason}); free some space or choose another --out"
        ) from error
