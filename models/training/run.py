"""A whole run: steps, evaluations, checkpoints, early stopping, and what is left at its end."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from ...graph.errors import BitgraphError
from ...graph.tensors import Array
from ..data.examples import Example
from ..files import remove_partial
from .checkpoints import (
    CheckpointWriter,
    Progress,
    TrainingCheckpoint,
    checkpoint_folders,
    read_checkpoint,
    remove_old,
    remove_unfinished,
)
from .identity import expect_same, run_identity
from .options import total_steps
from .subjects import BEST, Subject
from .trainer import StepReport, Trainer

_MINUTE = 60.0


@dataclass(frozen=True)
class RunOptions:
    """When a run evaluates, saves and ends.

    Attributes:
        eval_steps: steps from one evaluation to the next, 0 for only at both ends.
        patience: evaluations in a row without a smaller loss after which the run ends; 0 never.
        save_steps: steps from one checkpoint to the next, 0 for none.
        save_minutes: minutes after which there is one too, 0 for none.
        keep: checkpoints that are kept.

    Raises:
        BitgraphError: an option is out of its range.
    """

    eval_steps: int = 0
    patience: int = 0
    save_steps: int = 200
    save_minutes: float = 0.0
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("eval_steps", "patience", "save_steps", "save_minutes"):
            if not getattr(self, name) >= 0:
                option = name.replace("_", "-")
                raise BitgraphError(f"{option} ({getattr(self, name)}) must not be negative")
        if self.keep < 1:
            raise BitgraphError(f"keep ({self.keep}) must be at least 1")
        if self.patience and not self.eval_steps:
            raise BitgraphError("patience counts evaluations; give --eval-steps too")


@dataclass(frozen=True)
class Evaluation:
    """The loss on held-out examples behind a step.

    Attributes:
        step: 0 before the first.
        loss: mean over their supervised tokens.
        best: whether it is the smallest so far.
    """

    step: int
    loss: float
    best: bool


@dataclass(frozen=True)
class Saving:
    """A checkpoint that is written next.

    It is told before, so that whoever keeps a record of events has it when the checkpoint exists.
    """

    step: int


Event: TypeAlias = StepReport | Evaluation | Saving

_EVENT_NAMES: Final[Mapping[type, str]] = {
    StepReport: "step",
    Evaluation: "eval",
    Saving: "checkpoint",
}


def record_of(event: Event) -> dict[str, Any]:
    """An event as plain JSON: its name as ``event``, and its fields."""
    return {"event": _EVENT_NAMES[type(event)], **asdict(event)}


@dataclass
class Run:
    """A run in a folder.

    Attributes:
        trainer: does the steps.
        training, held_out: examples; no held-out ones, no evaluation.
        options: when to do what.
        folder: of the run.
        out: where the result is left.
        progress: where the run is.
    """

    trainer: Trainer
    training: Sequence[Example]
    held_out: Sequence[Example]
    options: RunOptions
    folder: Path
    out: Path
    progress: Progress = field(default_factory=Progress)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What has to be the same for a run to go on, as plain JSON."""
        trainer = self.trainer
        return run_identity(trainer.options, trainer.model_digest, self.training, self.held_out)

    @cached_property
    def total(self) -> int:
        """Steps of the whole run, if it does not end early."""
        return total_steps(self.trainer.options, self.training)

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or evaluations got no better for too long."""
        stale = bool(self.options.patience) and self.progress.stale >= self.options.patience
        return stale or self.progress.step >= self.total

    def resume(self) -> bool:
        """Go on from the newest checkpoint, if there is one.

        Raises:
            BitgraphError: it is damaged, or of a run with other options, another model or other
                data.
        """
        folders = checkpoint_folders(self.folder)
        if not folders:
            return False
        checkpoint = read_checkpoint(folders[-1], self.trainer.subject.load)
        expect_same(checkpoint.run, self.identity, folders[-1])
        tensors = {**checkpoint.trained, **checkpoint.state}
        self.trainer.restore(tensors, checkpoint.progress.step)
        self.progress = checkpoint.progress
        return True

    def events(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Train to the end, or until `stop` holds, and tell what happens.

        A checkpoint follows the step that was under way when `stop` began to hold. At the end the
        result lies in `out`, the best one in `BEST` below the folder.

        Raises:
            BitgraphError: a step is not finite, or something cannot be written.
        """
        remove_unfinished(self.folder)
        remove_old(self.folder, self.options.keep)  # who was killed may not have
        for place in (self.folder, self.folder / BEST):
            remove_partial(place)
        if not self.is_over:
            save = self.trainer.subject.save
            with CheckpointWriter(self.folder, self.options.keep, save) as writer:
                yield from self._train(writer, stop)
        self.save()

    def _train(self, writer: CheckpointWriter, stop: Callable[[], bool]) -> Iterator[Event]:
        agenda = _Agenda(self.options, self.total, stop)
        if not self.progress.step:
            yield from self._evaluate()
        for report in self.trainer.fit(self.training, self.progress.step, agenda.pauses):
            yield report
            writer.check()
            due = agenda.due.pop(report.step, None)
            if due is None:
                continue
            self.progress = replace(self.progress, step=report.step)
            if due.evaluate:
                yield from self._evaluate()
            if due.save or due.stop or (self.is_over and self.options.save_steps):
                yield Saving(report.step)
                writer.submit(partial(self._checkpoint, self.trainer.state(), self.progress))
            if due.stop or self.is_over:
                break

    def save(self) -> None:
        """Leave the result as it is."""
        self.trainer.subject.publish(self.out, self.trainer.tensors())

    def _evaluate(self) -> Iterator[Evaluation]:
        if not self.held_out:
            return
        now, loss = self.progress, self.trainer.evaluate(self.held_out)
        best = now.best_loss is None or loss < now.best_loss
        if best:
            self.progress = replace(now, best_loss=loss, best_step=now.step, stale=0)
            if now.step:
                subject = self.trainer.subject
                subject.publish(subject.best(self.folder), self.trainer.tensors())
        else:
            self.progress = replace(now, stale=now.stale + 1)
        yield Evaluation(now.step, loss, best)

    def _checkpoint(self, state: Mapping[str, Array], progress: Progress) -> TrainingCheckpoint:
        """The checkpoint of a state, whatever is trained meanwhile."""
        trained = {name: state[name] for name in self.trainer.names}
        rest = {name: value for name, value in state.items() if name not in trained}
        return TrainingCheckpoint(progress, self.identity, trained, rest)


@dataclass(frozen=True)
class _Due:
    """What follows a step before the next one."""

    save: bool
    evaluate: bool
    stop: bool


class _Agenda:
    """Decides, when a step begins, what follows it.

    Attributes:
        due: by step, where there is something.
    """

    def __init__(self, options: RunOptions, total: int, stop: Callable[[], bool]) -> None:
        self.due: dict[int, _Due] = {}
        self._options = options
        self._total = total
        self._stop = stop
        self._saved = time.monotonic()

    def pauses(self, step: int) -> bool:
        """Whether something follows the step that was just begun."""
        options = self._options
        due = _Due(
            save=self._is_due(options.save_steps, step) or self._is_late(),
            evaluate=step == self._total or self._is_due(options.eval_steps, step),
            stop=self._stop(),
        )
        if due.save:
            self._saved = time.monotonic()
        if due.save or due.evaluate or due.stop:
            self.due[step] = due
        return step in self.due

    def _is_due(self, every: int, step: int) -> bool:
        return bool(every) and (step % every == 0 or step == self._total)

    def _is_late(self) -> bool:
        minutes = self._options.save_minutes
        return bool(minutes) and time.monotonic() - self._saved >= minutes * _MINUTE


def has_best(folder: Path, subject: Subject) -> bool:
    """Whether a run's folder holds the result with the smallest evaluation loss."""
    return is_published(subject.best(folder), subject)


def is_published(place: Path, subject: Subject) -> bool:
    """Whether a result lies there."""
    return subject.files(place)[0].exists()


def forget(folder: Path, subject: Subject) -> None:
    """Remove the checkpoints of a run and its best result, but nothing that a run did not make."""
    remove_old(folder, keep=0)
    for path in subject.files(subject.best(folder)):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / BEST).rmdir()
