"""What happens in a run as an event file of TensorBoard.

Events and records are tensorboardX's, but not its writers: here an event is in the file when
`append` returns, and a full disk is met where it can be said, with the file closed behind it.
"""

import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from ..files import make_folder
from .metrics import named

FOLDER = "tensorboard"


class TensorBoardLog:
    """Appends the scalars of records, as `MetricsFile` is given them.

    A resumed run tells TensorBoard to forget what is behind `begin`; with a `begin` of 0 the folder
    is made anew.
    """

    def __init__(self, folder: Path, begin: int = 0) -> None:
        """Open a file in `FOLDER` below the run's folder.

        Raises:
            BitgraphError: it cannot be written.
        """
        self._path = folder / FOLDER
        if not begin:
            shutil.rmtree(self._path, ignore_errors=True)
        make_folder(self._path)
        # The last two parts keep files apart that are begun in the same second.
        parts = (int(time.time()), socket.gethostname(), os.getpid(), begin)
        name = ".".join(("events.out.tfevents", *map(str, parts)))
        with named(self._path):
            self._file = RecordWriter(str(self._path / name))
        try:
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
            if begin:
                restart = SessionLog(status=SessionLog.START)
                self._write(Event(wall_time=time.time(), step=begin + 1, session_log=restart))
        except BaseException:
            with suppress(OSError):
                self._file.close()
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Add what can be plotted of a record.

        Raises:
            BitgraphError: it cannot be written.
        """
        scalars = dict(_scalars(record))
        if scalars:
            event = Event(wall_time=time.time(), step=record["step"])
            for tag, value in scalars.items():
                event.summary.value.add(tag=tag, simple_value=value)
            self._write(event)

    def _write(self, event: Event) -> None:
        with named(self._path):
            self._file.write(event.SerializeToString())
            self._file.flush()

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with named(self._path):
            self._file.close()


def _scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Tags and values."""
    if record["event"] == "eval":
        yield "loss/eval", record["loss"]
    if record["event"] == "step":
        yield "loss/train", record["loss"]
        yield "learning_rate", record["lr"]
        yield "grad_norm", record["grad_norm"]
        yield "tokens_per_second", record["tokens"] / record["seconds"]
        for number, norm in enumerate(record["layer_norms"]):
            yield f"grad_norm_of_layers/{number:02d}", norm
