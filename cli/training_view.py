"""What a person sees of a run: a progress bar on a terminal, a line now and then elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..models.training.run import Evaluation, Event, Saving
from ..models.training.throughput import Throughput
from ..models.training.trainer import StepReport

_LINES = 20
"""Lines for the steps of a run where there is no terminal."""

_WIDE = 110
"""Columns of a terminal from which on there is room for a bar and the time passed."""


class TrainingView:
    """Shows the events of a run."""

    def __init__(self, console: Console, total: int, done: int, memory: str) -> None:
        """Begin to show.

        Args:
            console: where to.
            total: steps of the run.
            done: steps that were done before.
            memory: what a step takes on the device, in words; empty on the host.
        """
        self.speed = Throughput()
        self._console = console
        wide = console.width >= _WIDE  # else rich would cut the numbers
        self._progress = Progress(
            *((TextColumn("{task.description}"), BarColumn()) if wide else ()),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("eval {task.fields[evaluation]}"),
            TextColumn("{task.fields[speed]} tokens/s"),
            TextColumn(memory),
            *((TimeElapsedColumn(),) if wide else ()),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(
            "training", total=total, completed=done, loss="-", evaluation="-", speed="-"
        )

    def show(self, event: Event) -> None:
        """Show what happened."""
        if isinstance(event, StepReport):
            self._show_step(event)
        elif isinstance(event, Evaluation):
            self._progress.update(self._task, evaluation=f"{event.loss:.4f}")
            best = ", the best so far" if event.best and event.step else ""
            self._console.print(f"eval loss after {event.step} steps: {event.loss:.4f}{best}")
        elif isinstance(event, Saving):
            self._console.print(f"writing the checkpoint of step {event.step}")

    def _show_step(self, report: StepReport) -> None:
        self.speed.add(report)
        loss, speed = f"{report.loss:.4f}", f"{self.speed.recent():,.0f}"
        self._progress.update(self._task, completed=report.step, loss=loss, speed=speed)
        every = max(report.total // _LINES, 1)
        if not self._console.is_terminal and (report.step % every == 0 or report.step == 1):
            self._console.print(
                f"step {report.step}/{report.total} loss {loss} "
                f"{report.tokens / report.seconds:,.0f} tokens/s"
            )

    def __enter__(self) -> "TrainingView":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self.speed.steps:
            self._console.print(self.speed.summary())
