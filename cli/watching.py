"""What a run leaves for those who watch it: logs while it goes on, at its end a report."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import click
from rich.console import Console

from ..graph.errors import BitgraphError
from ..models.training.answers import Answerer
from ..models.training.metrics import MetricsFile
from ..models.training.run import Run
from .options import PATH

Log: TypeAlias = Callable[[dict[str, Any]], None]
"""Takes the records of a run."""


@contextmanager
def run_logs(folder: Path, begin: int, tensorboard: bool) -> Iterator[Log]:
    """The files that take the records of a run.

    Args:
        folder: of the run.
        begin: steps that were done before.
        tensorboard: whether there is one for it.

    Raises:
        BitgraphError: one of them cannot be written.
    """
    with ExitStack() as stack:
        metrics = stack.enter_context(MetricsFile(folder, begin))
        logs: list[Log] = [metrics.append]
        if tensorboard:
            from ..models.training.tensorboard import TensorBoardLog  # only where wanted: slow

            logs.append(stack.enter_context(TensorBoardLog(folder, begin)).append)

        def log(record: dict[str, Any]) -> None:
            for each in logs:
                each(record)

        yield log


def sampled(console: Console, run: Run, asked: Answerer, count: int) -> Iterator[dict[str, Any]]:
    """Records of answers to the first prompts of the held-out or the training examples."""
    examples = (run.held_out or run.training)[:count]
    if not examples:
        return
    console.print(f"answering {len(examples)} prompts for the report")
    try:
        adapter = run.trainer.options.adapter(run.trainer.tensors(), base_model="")
        answers = asked.answers(examples, adapter)
    except BitgraphError as error:
        console.print(f"there are no samples: {error}")
    except KeyboardInterrupt:
        console.print("there are no samples: stopped")
    else:
        step = run.progress.step
        yield from ({"event": "sample", "step": step, **asdict(each)} for each in answers)


def leave_report(console: Console, folder: Path) -> None:
    """Write the report of a run, however it ended; without a finished step there is none."""
    from .report.page import PICTURE, REPORT, write_report  # only behind a run: slow

    try:
        written = write_report(folder)
    except BitgraphError as error:
        console.print(f"there is no report: {error}")
    else:
        if written:
            console.print(f"{REPORT} and {PICTURE} written to {folder}")


@click.command()
@click.argument("run", type=PATH)
def report(run: Path) -> None:
    """Write report.html and loss.png of the run in a folder anew, from its metrics.jsonl."""
    from .report.page import PICTURE, REPORT, write_report

    if not write_report(run):
        raise BitgraphError(f"{run} has no metrics.jsonl with a finished step; give a run's folder")
    click.echo(f"{REPORT} and {PICTURE} written to {run}")
