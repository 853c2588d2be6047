"""Checkpoints of a run: everything that the next step depends on, so that a run can go on.

Layout, below the run's folder:

    checkpoints/step-00000200/adapter_config.json         the adapter, a PEFT folder,
                              adapter_model.safetensors   or else
                              masters.safetensors         the float weights of a model
                              optimizer.safetensors       moments, and whether all is sound
                              run.json                    step, progress, what the run was

A checkpoint is written under another name and renamed when all of it is on disk: a folder of that
name is whole. What was read and trained before step N follows from the seed and N.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import safetensors
import safetensors.numpy

from ...graph.errors import BitgraphError
from ...graph.tensors import Array
from ..files import PARTIAL, atomic_write, make_folder, sync_folder, write_text

FOLDER = "checkpoints"

Save: TypeAlias = Callable[[Path, Mapping[str, Array]], None]
"""Writes the trained tensors into a folder."""

Load: TypeAlias = Callable[[Path], Mapping[str, Array]]
"""Inverse of `Save`; it raises a BitgraphError if a file is missing or damaged."""

_NAME = "step-{:08d}"
_STEP = re.compile(r"step-[0-9]{8}")
_OPTIMIZER = "optimizer.safetensors"
_RUN = "run.json"


@dataclass(frozen=True)
class Progress:
    """What a run remembers besides its tensors.

    Attributes:
        step: number of the last step.
        best_loss: smallest evaluation loss so far, None before the first evaluation.
        best_step: the step behind which it was found.
        stale: evaluations since then.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    stale: int = 0


@dataclass(frozen=True, eq=False)
class TrainingCheckpoint:
    """A run behind one of its steps.

    Attributes:
        progress: where it is.
        run: what the run is, as plain JSON: the same run has the same.
        trained: tensors, by name.
        state: all else that steps change, by name.
    """

    progress: Progress
    run: Mapping[str, Any]
    trained: Mapping[str, Array]
    state: Mapping[str, Array]


def write_checkpoint(folder: Path, checkpoint: TrainingCheckpoint, save: Save) -> Path:
    """Write a checkpoint of the run in a folder; its own folder appears when it is complete.

    Raises:
        BitgraphError: it cannot be written; those that were there before are untouched.
    """
    final = folder / FOLDER / _NAME.format(checkpoint.progress.step)
    partial = final.with_name(final.name + PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
        save(partial, checkpoint.trained)
        tensors = {name: np.asarray(value, order="C") for name, value in checkpoint.state.items()}
        data = safetensors.numpy.save(tensors)
        with atomic_write(partial / _OPTIMIZER) as file:
            file.write(data)
        record = {
            "progress": asdict(checkpoint.progress),
            "run": checkpoint.run,
            "optimizer_sha256": hashlib.sha256(data).hexdigest(),
        }
        write_text(partial / _RUN, json.dumps(record, indent=2) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        sync_folder(final.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(
            f"the checkpoint {final} could not be written ({reason}); free some space and go on "
            "with --resume"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_if_empty(final.parent)
    return final


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    found = (folder / FOLDER).glob("step-*")
    return sorted(path for path in found if _STEP.fullmatch(path.name))


def read_checkpoint(folder: Path, load: Load) -> TrainingCheckpoint:
    """Read what `write_checkpoint` wrote, bit for bit.

    Args:
        folder: of the checkpoint itself.
        load: reads the trained tensors.

    Raises:
        BitgraphError: a file is missing or damaged.
    """
    advice = f"remove {folder} to go on from the one before it, or else from the beginning"
    try:
        record = json.loads((folder / _RUN).read_text())
        data = (folder / _OPTIMIZER).read_bytes()
        progress = Progress(**record["progress"])
        run, digest = dict(record["run"]), record["optimizer_sha256"]
        trained = load(folder)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, BitgraphError) as error:
        reason = str(error).partition(";")[0] or type(error).__name__
        raise BitgraphError(f"the checkpoint {folder} is damaged ({reason}); {advice}") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise BitgraphError(
            f"the checkpoint {folder} is damaged ({_OPTIMIZER} is not what was saved); {advice}"
        )
    return TrainingCheckpoint(progress, run, trained, safetensors.numpy.load(data))


def remove_old(folder: Path, keep: int) -> None:
    """Remove all but the newest checkpoints of a run."""
    for path in checkpoint_folders(folder)[: -keep or None]:
        partial = path.with_name(path.name + PARTIAL)  # half of one must not look whole
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            shutil.rmtree(path.rename(partial))
    _remove_if_empty(folder / FOLDER)


def remove_unfinished(folder: Path) -> None:
    """Remove checkpoints of a run that a process which was killed had begun to write."""
    for path in (folder / FOLDER).glob(f"step-*{PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)
    _remove_if_empty(folder / FOLDER)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


class CheckpointWriter:
    """Writes checkpoints beside the training, one at a time."""

    def __init__(self, folder: Path, keep: int, save: Save) -> None:
        self._folder = folder
        self._keep = keep
        self._save = save
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def submit(self, make: Callable[[], TrainingCheckpoint]) -> None:
        """Begin to make a checkpoint and to write it, once the one before is written.

        Args:
            make: called beside the training, so what it does holds up no step; what it reads must
                stay as it is.

        Raises:
            BitgraphError: the one before could not be made or written.
        """
        self.wait()
        self._writing = self._pool.submit(self._write, make)

    def check(self) -> None:
        """Notice early that the last one could not be written.

        Raises:
            BitgraphError: it could not be.
        """
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when all is written.

        Raises:
            BitgraphError: it could not be.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, make: Callable[[], TrainingCheckpoint]) -> None:
        write_checkpoint(self._folder, make(), self._save)
        remove_old(self._folder, self._keep)

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if error is None:
            self.wait()
