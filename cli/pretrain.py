"""`bitgraph pretrain`: train a model from scratch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..models.bitnet.checkpoint import load_checkpoint
from ..models.bitnet.masters import initial_masters, masters_of
from ..models.bitnet.presets import PRESETS, preset_config
from ..models.bitnet.synthetic_tokenizer import SPECIAL_TOKENS
from ..models.bitnet.tokenizer import Tokenizer
from ..models.bitnet.trained_tokenizer import train_tokenizer
from ..models.data.source import read_texts
from ..models.data.templates.marks import Specials
from ..models.files import make_folder
from ..models.gguf import MetadataValue
from ..models.training.options import TrainingOptions
from ..models.training.subjects import AllWeights
from ..models.training.trainer import Trainer
from .config_file import config_option
from .data_options import DataOptions, data_options
from .options import PATH
from .training import Job, conduct, expect_free, request_of, training_options

TEMPLATE = "bitnet-chat"

DEFAULTS = TrainingOptions(
    lr=1e-3,
    warmup=0.02,
    layout="pack",
    weight_decay=0.1,
    no_decay=("norm.weight", "embed_tokens.weight"),
)


@click.command()
@config_option
@click.option("--preset", type=click.Choice(list(PRESETS)), default="nano", show_default=True)
@click.option("--init", type=PATH, help="Model to go on from instead, with its tokenizer.")
@click.option("--layers", type=int, help="Transformer blocks, if not those of the preset.")
@click.option("--vocab-size", type=int, default=2048, show_default=True, help="Tokens, at most.")
@data_options
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="GGUF file for the model.",
)
@click.option(
    "--run",
    "folder",
    type=PATH,
    help="Folder for checkpoints and metrics; by default --out without its suffix, and -run.",
)
@training_options(DEFAULTS)
def pretrain(
    preset: str,
    init: Path | None,
    layers: int | None,
    vocab_size: int,
    out: Path,
    folder: Path | None,
    **fields: Any,
) -> None:
    """Train a BitNet model from scratch, with a tokenizer made for the data.

    All weights are trained, in float behind the ternary ones. With --init it goes on from a model
    instead. Conversations are written out by the template bitnet-chat unless another is given.
    """
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    source = fields["source"] = replace(
        fields["source"], template=fields["source"].template or TEMPLATE
    )
    request = request_of(folder or out.with_name(f"{out.stem}-run"), out, fields, DEFAULTS)
    config = preset_config(preset, num_hidden_layers=layers, vocab_size=vocab_size)
    expect_free(request, AllWeights(config, {}, out.stem))
    make_folder(out.parent)
    if init:
        checkpoint = load_checkpoint(init)
        config, weights = checkpoint.config, masters_of(checkpoint.weights)
        metadata = checkpoint.tokenizer
    else:
        metadata = _made_tokenizer(source, vocab_size)
    tokenizer = Tokenizer.from_metadata(metadata, str(init or out))
    if not init:
        config = replace(config, vocab_size=tokenizer.vocab_size)
        weights = initial_masters(config, request.options.seed)
    subject = AllWeights(config, metadata, out.stem)
    begin = str(init or preset)

    def describe(trainer: Trainer) -> str:
        return (
            f"{begin}: {config.num_hidden_layers} layers, hidden {config.hidden_size}, "
            f"{config.vocab_size:,} tokens; training all {trainer.num_parameters:,} parameters"
        )

    conduct(console, request, Job(begin, config, weights, tokenizer, subject, describe))


def _made_tokenizer(source: DataOptions, vocab_size: int) -> dict[str, MetadataValue]:
    """A tokenizer made for the data."""
    bos, eos, _ = SPECIAL_TOKENS
    ids = {name: number for number, name in enumerate(SPECIAL_TOKENS)}
    specials = Specials.of(ids, ids[bos], ids[eos])
    return train_tokenizer(read_texts(source.data, specials, source.template), vocab_size)
