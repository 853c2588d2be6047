"""`bitgraph train`: fine-tune a model with LoRA."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

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

from ..graph.errors import BitgraphError
from ..models.adapters.peft import CONFIG, save_adapter
from ..models.bitnet.checkpoint import Checkpoint, load_checkpoint
from ..models.bitnet.config import PROJECTIONS
from ..models.bitnet.tokenizer import Tokenizer
from ..models.data.alpaca import EncodedSet, load_alpaca, tokenize
from ..models.files import write_text
from ..models.training.options import TrainingOptions, total_steps
from ..models.training.trainer import StepReport, Trainer
from ..passes.manager import dump_to
from .options import (
    PATH,
    activation_option,
    backend_option,
    from_defaults,
    make_backend,
    model_option,
)

METRICS = "metrics.jsonl"


def _option(name: str, type: Any, text: str) -> Any:
    """A `TrainingOptions` field as an option of the command."""
    flag = f"--{name.replace('_', '-')}"
    return click.option(flag, type=type, help=text, **from_defaults(TrainingOptions, name))


@click.command()
@model_option
@click.option("--data", type=PATH, required=True, help="Training records, Alpaca JSON.")
@click.option("--out", type=PATH, required=True, help="Folder for the adapter and the metrics.")
@click.option("--eval-data", type=PATH, help="Records whose loss is taken before and after.")
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
@_option("max_seq_len", int, "Tokens an example is cut to.")
@_option("warmup", int, "Steps over which the learning rate rises.")
@_option("seed", int, "Of the adapters' first values and the order of examples.")
@_option("max_grad_norm", float, "Clip gradients to this global norm; 0 for no clipping.")
@_option("weight_decay", float, "AdamW's weight decay.")
@click.option("--force", is_flag=True, help="Replace an adapter that --out already holds.")
@click.option("--dump-passes", type=PATH, help="Folder for the graph's text after every pass.")
@activation_option
@backend_option
def train(
    model: Path,
    data: Path,
    out: Path,
    eval_data: Path | None,
    targets: str,
    force: bool,
    dump_passes: Path | None,
    activation: str | None,
    backend: str,
    **fields: Any,
) -> None:
    """Fine-tune a BitNet model with LoRA on Alpaca records."""
    console = Console(stderr=True, highlight=False)
    names = tuple(part.strip() for part in targets.split(",") if part.strip())
    options = TrainingOptions(targets=names, **fields)
    if (out / CONFIG).exists() and not force:
        raise BitgraphError(
            f"{out} already holds an adapter; choose another --out, or --force to replace it"
        )
    checkpoint = load_checkpoint(model, activation)
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(model))
    examples = _encode(console, data, tokenizer, options)
    held_out = _encode(console, eval_data, tokenizer, options) if eval_data else None
    on_stage = dump_to(dump_passes, write_text) if dump_passes else None
    trainer = Trainer(
        checkpoint.config, checkpoint.weights, make_backend(backend), options, on_stage
    )
    _describe(console, checkpoint, options, trainer)
    with _metrics(out) as metrics:
        metrics({"event": "start", "model": str(model), "data": str(data), **asdict(options)})
        try:
            _run(console, trainer, examples, held_out, metrics)
        finally:
            if trainer.steps_done:
                save_adapter(out, trainer.adapter(str(model)))
                console.print(f"adapter of step {trainer.steps_done} written to {out}")


def _encode(
    console: Console, path: Path, tokenizer: Tokenizer, options: TrainingOptions
) -> EncodedSet:
    """Records as tokens, with what was cut or skipped said."""
    records = load_alpaca(path)
    encoded = tokenize(records, tokenizer, options.max_seq_len)
    tokens = sum(example.tokens.size for example in encoded.examples)
    console.print(
        f"{path}: {len(encoded.examples)} examples, {tokens:,} tokens; {encoded.cut} cut to "
        f"{options.max_seq_len} tokens, {encoded.skipped} skipped without a response"
    )
    return encoded


def _describe(
    console: Console, checkpoint: Checkpoint, options: TrainingOptions, trainer: Trainer
) -> None:
    c = checkpoint.config
    console.print(
        f"{checkpoint.path}: {c.num_hidden_layers} layers, hidden {c.hidden_size}, "
        f"{c.num_parameters:,} parameters; training {trainer.num_parameters:,} in adapters of "
        f"rank {options.rank} on {', '.join(options.targets)}"
    )


@contextmanager
def _metrics(out: Path) -> Iterator[Any]:
    """A function that appends a record to the run's metrics file, each on disk when it returns."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / METRICS).open("a") as file:
            yield lambda record: _append(file, record)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(f"{out / METRICS} could not be written ({reason})") from error


def _append(file: IO[str], record: dict[str, Any]) -> None:
    file.write(json.dumps(record) + "\n")
    file.flush()
    os.fsync(file.fileno())


def _run(
    console: Console,
    trainer: Trainer,
    training: EncodedSet,
    held_out: EncodedSet | None,
    metrics: Any,
) -> None:
    total = total_steps(trainer.options, len(training.examples))
    _evaluate(console, trainer, held_out, metrics)
    with _progress(console) as progress:
        task = progress.add_task("training", total=total, loss="-", speed="-")
        for report in trainer.fit(training.examples):
            metrics({"event": "step", **asdict(report)})
            speed = f"{report.tokens / report.seconds:,.0f}"
            progress.update(task, completed=report.step, loss=f"{report.loss:.4f}", speed=speed)
            _print_if_plain(console, report)
    _evaluate(console, trainer, held_out, metrics)


def _evaluate(
    console: Console, trainer: Trainer, held_out: EncodedSet | None, metrics: Any
) -> None:
    if held_out is None:
        return
    loss = trainer.evaluate(held_out.examples)
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
