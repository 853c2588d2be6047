"""`bitgraph eval`: loss, or exact matches, on a data set, with and without adapters."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ..graph.errors import BitgraphError
from ..models.adapters.stacking import stack
from ..models.bitnet.checkpoint import load_checkpoint
from ..models.bitnet.tokenizer import Tokenizer
from ..models.data.examples import Example
from ..models.files import atomic_write
from ..models.training.evaluation import Evaluator, ExampleLoss, mean_loss, perplexity
from ..models.training.exact import TOGETHER, Examiner, read_questions
from ..models.training.options import TrainingOptions
from ..models.training.trainer import BUCKET
from .data_options import DataOptions, data_options, describe_data, load_data
from .exact import evaluate_exactly
from .options import (
    PATH,
    activation_option,
    backend_option,
    device_option,
    lora_option,
    make_backend,
    model_option,
)
from .progress import taken
from .session import Adapters, parse_adapter


@click.command("eval")
@model_option
@data_options
@lora_option
@click.option("--exact", is_flag=True, help="Ask instead, and count answers that are right.")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    help="With --exact: the longest answer. [default: twice the longest right one]",
)
@click.option(
    "--show",
    type=click.IntRange(min=0),
    default=0,
    help="With --exact: questions whose answers are printed side by side.",
)
@click.option("--out", type=PATH, help="File for each example's loss or answers, as JSONL.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help=f"Examples that run together. [default: {TrainingOptions.batch_size}; {TOGETHER} with "
    "--exact]",
)
@activation_option
@backend_option
@device_option
def eval_(
    model: Path,
    source: DataOptions,
    lora: tuple[str, ...],
    exact: bool,
    max_tokens: int | None,
    show: int,
    out: Path | None,
    batch_size: int | None,
    activation: str | None,
    backend: str,
    device: str | None,
) -> None:
    """Take the loss over the responses of a data set; with --lora, of both, side by side.

    With --exact, answer each record greedily, and count the answers that are the record's own, by
    the records' field "task".
    """
    checkpoint = load_checkpoint(model, activation)
    config = checkpoint.config
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(model))
    if exact:
        questions = read_questions(source.data, tokenizer, source.template)
        adapters = Adapters([parse_adapter(text, config) for text in lora], None)
        examiner = Examiner(
            config,
            checkpoint.weights,
            make_backend(backend, device),
            tokenizer,
            questions,
            sequences=batch_size or TOGETHER,
            max_tokens=max_tokens,
        )
        evaluate_exactly(examiner, questions, adapters, out, show)
        return
    if source.max_seq_len > config.max_position_embeddings:
        raise BitgraphError(
            f"max-seq-len is {source.max_seq_len}, but the model's context is "
            f"{config.max_position_embeddings}; choose a smaller --max-seq-len"
        )
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    prepared = load_data(console, source, tokenizer)
    examples = prepared.encoded.examples
    named = [parse_adapter(text, config) for text in lora]
    together = batch_size or TrainingOptions.batch_size
    evaluator = Evaluator(
        config, checkpoint.weights, make_backend(backend, device), together, BUCKET
    )
    losses = {"without": taken(evaluator.losses(examples), len(examples), "without")}
    if named:
        adapter = stack([(item.adapter, item.scale) for item in named])
        adapted = evaluator.losses(examples, adapter)
        losses["with"] = taken(adapted, len(examples), "with")
    if out is not None:
        _write(out, examples, losses)
    describe_data(console, source, prepared)
    Console().print(_table(losses, " + ".join(item.name for item in named)))


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
