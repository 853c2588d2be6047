"""`bitgraph train`: fine-tune a model with LoRA."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..backends.vulkan.errors import DeviceLost
from ..graph.errors import BitgraphError
from ..graph.sizes import binary_size
from ..models.adapters.peft import CONFIG, save_adapter
from ..models.bitnet.checkpoint import Checkpoint, load_checkpoint
from ..models.bitnet.config import PROJECTIONS
from ..models.bitnet.tokenizer import Tokenizer
from ..models.data.examples import Example
from ..models.data.ordering import Layout, split_off
from ..models.files import make_folder
from ..models.training.options import TrainingOptions, total_steps
from ..models.training.throughput import Throughput
from ..models.training.trainer import StepReport, Trainer
from .costs import measured_costs
from .data_options import DataOptions, data_options, describe_data, load_data
from .dumps import dumping
from .interrupt import interrupted
from .options import (
    PATH,
    CommandT,
    activation_option,
    backend_option,
    device_option,
    from_defaults,
    make_backend,
    model_option,
)

METRICS = "metrics.jsonl"

Metrics: TypeAlias = Callable[[dict[str, Any]], None]


def _option(name: str, type: Any, text: str) -> Callable[[CommandT], CommandT]:
    """A `TrainingOptions` field as an option of the command."""
    flag = f"--{name.replace('_', '-')}"
    return click.option(flag, type=type, help=text, **from_defaults(TrainingOptions, name))


@click.command()
@model_option
@data_options
@click.option("--out", type=PATH, required=True, help="Folder for the adapter and the metrics.")
@click.option("--eval-data", type=PATH, help="Records whose loss is taken before and after.")
@click.option(
    "--eval-split",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="Share of the training records to hold out for that instead.",
)
@_option("rank", int, "Inner width of the adapters.")
@_option("alpha", float, "Adapters are scaled by alpha / rank.")
@click.option(
    "--target",
    "targets",
    default=",".join(PROJECTIONS),
    show_default=True,
    help="Modules that get an adapter, separated by commas.",
)
@_option("lr", float, "Largest learning rate; it falls along a cosine after the warm-up.")
@_option("epochs", int, "Passes over the data.")
@_option("max_steps", int, "Stop after so many steps; 0 for no limit.")
@_option("batch_size", int, "Examples a step.")
@click.option("--pack", "layout", flag_value="pack", help="Fill steps with what fits instead.")
@click.option("--pad", "layout", flag_value="pad", help="Pad examples to the longest of a step.")
@click.option(
    "--tokens-per-step",
    type=click.IntRange(min=0),
    default=0,
    help="Tokens of a step with --pack; batch-size times max-seq-len if not given.",
)
@_option("warmup", int, "Steps over which the learning rate rises.")
@_option("seed", int, "Of the adapters' first values and the order of examples.")
@_option("max_grad_norm", float, "Clip gradients to this global norm; 0 for no clipping.")
@_option("weight_decay", float, "AdamW's weight decay.")
@click.option(
    "--memory-budget",
    default="",
    metavar="SIZE",
    help="Device memory of a step, as in 6GiB; what does not fit is computed again. "
    "[default: what the device has]",
)
@click.option(
    "--save-steps",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="Write the adapter every so many steps too; 0 for only at the end.",
)
@click.option("--force", is_flag=True, help="Replace an adapter that --out already holds.")
@click.option("--dump-passes", type=PATH, help="Folder for texts, timings and a page of them.")
@activation_option
@backend_option
@device_option
def train(
    model: Path,
    source: DataOptions,
    out: Path,
    eval_data: Path | None,
    eval_split: float,
    layout: Layout | None,
    targets: str,
    save_steps: int,
    force: bool,
    dump_passes: Path | None,
    activation: str | None,
    backend: str,
    device: str | None,
    **fields: Any,
) -> None:
    """Fine-tune a BitNet model with LoRA on instructions, conversations or plain text."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    names = tuple(part.strip() for part in targets.split(",") if part.strip())
    options = TrainingOptions(
        targets=names, max_seq_len=source.max_seq_len, layout=layout or "flat", **fields
    )
    if eval_data and eval_split:
        raise BitgraphError("--eval-data and --eval-split are two ways to one thing; choose one")
    if (out / CONFIG).exists() and not force:
        raise BitgraphError(
            f"{out} already holds an adapter; choose another --out, or --force to replace it"
        )
    checkpoint = load_checkpoint(model, activation)
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(model))
    sets = {source: load_data(console, source, tokenizer)}
    training, held_out = sets[source].encoded.examples, list[Example]()
    if eval_data:
        other = replace(source, data=eval_data)
        sets[other] = load_data(console, other, tokenizer)
        held_out = sets[other].encoded.examples
    if eval_split:
        training, held_out = split_off(training, eval_split, options.seed)
    computing = make_backend(backend, device)
    costs = measured_costs(computing)
    with dumping(dump_passes) as stages:
        on_stage = stages.add if dump_passes else None
        trainer = Trainer(
            checkpoint.config, checkpoint.weights, computing, options, on_stage, costs
        )
        for folder in filter(None, (dump_passes, out)):
            make_folder(folder)
        needed = trainer.device_bytes(training)
    _describe(console, checkpoint, trainer)
    for each, prepared in sets.items():
        describe_data(console, each, prepared)
    if held_out:
        console.print(f"{len(training):,} examples to train on, {len(held_out):,} to evaluate on")
    if options.memory_budget or computing.memory is not None:
        console.print(str(trainer.report(training)))
    if needed:
        arenas = trainer.arenas(training)
        console.print(
            f"device memory needed: {binary_size(needed)}; values within a step: {arenas}"
        )
    with _metrics(out / METRICS) as metrics:
        run = {"model": str(model), **source.facts(), "eval_split": eval_split}
        metrics({"event": "start", **run, **asdict(options)})
        saver = _Saver(console, trainer, out, str(model), save_steps)
        with saver:
            _run(console, trainer, training, held_out, metrics, saver)


@dataclass
class _Saver:
    """Writes the adapter now and then, and when the run ends for whatever reason.

    Attributes:
        every: steps from one time to the next, 0 for only at the end.
        saved: step of the adapter that was written last, 0 for none.
    """

    console: Console
    trainer: Trainer
    out: Path
    base_model: str
    every: int
    saved: int = 0

    def after(self, step: int) -> None:
        """Write it if it is time to."""
        if self.every and step % self.every == 0:
            self.save()

    def save(self) -> None:
        """Write it."""
        if self.trainer.steps_done == self.saved:
            return
        save_adapter(self.out, self.trainer.adapter(self.base_model))
        self.saved = self.trainer.steps_done
        self.console.print(f"adapter of step {self.saved} written to {self.out}")

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, DeviceLost):
            kept = f"{self.out} has the adapter of step {self.saved}"
            raise DeviceLost(f"{error}; {kept if self.saved else 'no adapter was written yet'}")
        self.save()


def _describe(console: Console, checkpoint: Checkpoint, trainer: Trainer) -> None:
    """What is trained."""
    c, options = checkpoint.config, trainer.options
    console.print(
        f"{checkpoint.path}: {c.num_hidden_layers} layers, hidden {c.hidden_size}, "
        f"{c.num_parameters:,} parameters; training {trainer.num_parameters:,} in adapters of "
        f"rank {options.rank} on {', '.join(options.targets)}"
    )


@contextmanager
def _metrics(path: Path) -> Iterator[Metrics]:
    """A function that appends a record to the run's metrics, on disk when it returns."""
    with _named(path), path.open("wb") as file:

        def append(record: dict[str, Any]) -> None:
            with _named(path):
                file.write(json.dumps(record).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())

        yield append


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn an error of the system into a sentence about a file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(
            f"{path} could not be written ({reason}); free some space or choose another --out"
        ) from error


def _run(
    console: Console,
    trainer: Trainer,
    training: Sequence[Example],
    held_out: Sequence[Example],
    metrics: Metrics,
    saver: "_Saver",
) -> None:
    total = total_steps(trainer.options, training)
    speed = Throughput()
    _evaluate(console, trainer, held_out, metrics)
    with _progress(console) as progress, interrupted() as stop:
        task = progress.add_task("training", total=total, loss="-", speed="-")
        for report in trainer.fit(training):
            speed.add(report)
            metrics({"event": "step", **asdict(report)})
            loss, rate = f"{report.loss:.4f}", f"{speed.recent():,.0f}"
            progress.update(task, completed=report.step, loss=loss, speed=rate)
            _print_if_plain(console, report)
            saver.after(report.step)
            if stop():
                raise KeyboardInterrupt
    console.print(speed.summary())
    _evaluate(console, trainer, held_out, metrics)


def _evaluate(
    console: Console, trainer: Trainer, held_out: Sequence[Example], metrics: Metrics
) -> None:
    if not held_out:
        return
    loss = trainer.evaluate(held_out)
    metrics({"event": "eval", "step": trainer.steps_done, "loss": loss})
    console.print(f"eval loss after {trainer.steps_done} steps: {loss:.4f}")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[speed]} tokens/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _print_if_plain(console: Console, report: StepReport) -> None:
    """A line now and then where there is no terminal to draw a bar on."""
    every = max(report.total // 20, 1)
    if not console.is_terminal and (report.step % every == 0 or report.step == 1):
        console.print(
            f"step {report.step}/{report.total} loss {report.loss:.4f} "
            f"{report.tokens / report.seconds:,.0f} tokens/s"
        )
