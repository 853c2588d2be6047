"""`bitgraph init`: a model with random weights, to try things on or to start training from."""

from pathlib import Path

import click

from ..graph.errors import BitgraphError
from ..models.bitnet.presets import PRESETS, preset_config, write_random_model


@click.command()
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="tiny",
    show_default=True,
    help="Geometry to start from; 2b-4t is that of microsoft/bitnet-b1.58-2B-4T.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="GGUF file to write.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option("--vocab-size", type=int, help="Tokens, of which 259 are bytes and special.")
@click.option("--hidden-size", type=int, help="Width of the residual stream.")
@click.option("--intermediate-size", type=int, help="Width of the feed-forward network.")
@click.option("--layers", type=int, help="Transformer blocks.")
@click.option("--heads", type=int, help="Query heads.")
@click.option("--kv-heads", type=int, help="Key and value heads.")
@click.option("--context", type=int, help="Longest context.")
def init(
    preset: str,
    out: Path,
    seed: int,
    force: bool,
    vocab_size: int | None,
    hidden_size: int | None,
    intermediate_size: int | None,
    layers: int | None,
    heads: int | None,
    kv_heads: int | None,
    context: int | None,
) -> None:
    """Write a BitNet b1.58 model with random ternary weights and a working tokenizer."""
    config = preset_config(
        preset,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
    )
    if out.exists() and not force:
        raise BitgraphError(f"{out} exists; choose another name or add --force to replace it")
    write_random_model(out, config, seed)
    click.echo(f"{out}: {config.num_parameters:,} parameters, {out.stat().st_size:,} bytes")
