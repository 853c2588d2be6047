"""`bitgraph train`: fine-tune a model with LoRA."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..graph.program import Backend
from ..models.bitnet.checkpoint import load_checkpoint
from ..models.bitnet.tokenizer import Tokenizer
from ..models.training.answers import Answerer
from ..models.training.run import Run
from ..models.training.subjects import Adapters
from ..models.training.trainer import Trainer
from .config_file import config_option
from .data_options import data_options
from .options import PATH, activation_option, model_option, names_option, targets_option
from .training import Job, conduct, expect_free, field_option, request_of, training_options
from .watching import sampled


@click.command()
@config_option
@model_option
@data_options
@click.option("--out", type=PATH, required=True, help="Folder for the adapter and the metrics.")
@field_option("rank", int, "Inner width of the adapters.")
@field_option("alpha", float, "Adapters are scaled by alpha / rank.")
@targets_option
@names_option("--rank-pattern", "rank_pattern", "", "Other ranks, as in v_proj=8,o_proj=4.")
@names_option("--alpha-pattern", "alpha_pattern", "", "Other alphas, as in v_proj=16.")
@click.option("--rslora", is_flag=True, help="Scale adapters by alpha / sqrt(rank).")
@field_option("dropout", float, "Share of the adapters' inputs that are dropped in training.")
@training_options()
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Prompts that are answered at the end, without and with the adapter, for the report.",
)
@activation_option
def train(model: Path, out: Path, samples: int, activation: str | None, **fields: Any) -> None:
    """Fine-tune a BitNet model with LoRA on instructions, conversations or plain text."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    request = request_of(out, out, fields)
    options, subject = request.options, Adapters(request.options, str(model))
    expect_free(request, subject)
    checkpoint = load_checkpoint(model, activation)
    config, weights = checkpoint.config, checkpoint.weights
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(model))

    def describe(trainer: Trainer) -> str:
        return (
            f"{checkpoint.path}: {config.num_hidden_layers} layers, hidden {config.hidden_size}, "
            f"{config.num_parameters:,} parameters; training {trainer.num_parameters:,} in "
            f"adapters of rank {options.rank} on {', '.join(options.targets)}"
        )

    def answered(run: Run, backend: Backend) -> Iterator[dict[str, Any]]:
        asked = Answerer(config, weights, backend, tokenizer)
        return sampled(console, run, asked, samples)

    job = Job(str(model), config, weights, tokenizer, subject, describe, answered)
    conduct(console, request, job)
