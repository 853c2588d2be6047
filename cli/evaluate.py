"""`bitgraph eval`: loss or exact matches on a data set, with and without adapters."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..graph.errors import BitgraphError
from ..models.adapters.stacking import stack
from ..models.bitnet.checkpoint import load_checkpoint
from ..models.bitnet.tokenizer import Tokenizer
from ..models.corpus.exam import read_exam
from ..models.data.examples import Example
from ..models.files import atomic_write
from ..models.training.evaluation import Evaluator, ExampleLoss, mean_loss, perplexity
from ..models.training.options import TrainingOptions
from ..models.training.trainer import BUCKET
from .data_options import DataOptions, data_options, describe_data, load_data
from .exact import exam_table, take_exam, write_exam
from .options import (
    PATH,
    activation_option,
    backend_option,
    device_option,
    from_defaults,
    lora_option,
    make_backend,
    model_option,
)
from .session import parse_adapter


@click.command("eval")
@model_option
@data_options
@lora_option
@click.option(
    "--out", type=PATH, help="File for the loss of each example or for answers, as JSONL."
)
@click.option("--exact", is_flag=True, help="Count right answers to records with a 'task' instead.")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=48,
    show_default=True,
    help="The longest answer, with --exact.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Examples that run together.",
    **from_defaults(TrainingOptions, "batch_size"),
)
@activation_option
@backend_option
@device_option
def eval_(
    model: Path,
    source: DataOptions,
    lora: tuple[str, ...],
    out: Path | None,
    exact: bool,
    max_tokens: int,
    batch_size: int,
    activation: str | None,
    backend: str,
    device: str | None,
) -> None:
    """Take the loss over the responses of a data set; with --lora, of both, side by side.

    With --exact, let the model answer instead and count the answers that are right.
    """
    checkpoint = load_checkpoint(model, activation)
    config = checkpoint.config
    if source.max_seq_len > config.max_position_embeddings:
        raise BitgraphError(
            f"max-seq-len is {source.max_seq_len}, but the model's context is "
            f"{config.max_position_embeddings}; choose a smaller --max-seq-len"
        )
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(model))
    named = [parse_adapter(text, config) for text in lora]
    adapter = stack([(item.adapter, item.scale) for item in named]) if named else None
    if exact:
        exam = read_exam(source.data, source.template, tokenizer)
        adapters = {"without": None, **({"with": adapter} if named else {})}
        computing = make_backend(backend, device)
        taken = take_exam(checkpoint, tokenizer, computing, exam, adapters, batch_size, max_tokens)
        if out is not None:
            write_exam(out, exam, taken)
        Console().print(exam_table(exam, taken))
        return
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    prepared = load_data(console, source, tokenizer)
    examples = prepared.encoded.examples
    evaluator = Evaluator(
        config, checkpoint.weights, make_backend(backend, device), batch_size, BUCKET
    )
    losses = {"without": _taken(evaluator.losses(examples), len(examples), "without")}
    if adapter is not None:
        adapted = evaluator.losses(examples, adapter)
        losses["with"] = _taken(adapted, len(examples), "with")
    if out is not None:
        _write(out, examples, losses)
    describe_data(console, source, prepared)
    Console().print(_table(losses, " + ".join(item.name for item in named)))


def _taken(losses: Iterator[ExampleLoss], count: int, name: str) -> list[ExampleLoss]:
    """All of them, with a progress bar on a terminal."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return list(track(losses, name, count, console=console, transient=True, disable=hidden))


def _write(
    path: Path, examples: Sequence[Example], losses: Mapping[str, Sequence[ExampleLoss]]
) -> None:
    """One object a line for each example, in the order of the data."""
    with atomic_write(path) as file:
        rows = zip(examples, zip(*losses.values(), strict=True), strict=True)
        for number, (example, each) in enumerate(rows, 1):
            means = {f"loss_{name}": loss.mean for name, loss in zip(losses, each, strict=True)}
            place = {"example": number, "record": example.record}
            record = {**place, "tokens": each[0].supervised, **means}
            file.write(json.dumps(record).encode() + b"\n")


def _table(losses: Mapping[str, Sequence[ExampleLoss]], adapters: str) -> Table:
    table = Table(box=None)
    for title in ("adapter", "loss", "perplexity"):
        table.add_column(title, justify="left" if title == "adapter" else "right")
    names = {"without": "none", "with": adapters}
    for name, each in losses.items():
        loss = mean_loss(each)
        table.add_row(names[name], f"{loss:.4f}", f"{perplexity(loss):,.2f}")
    return table
