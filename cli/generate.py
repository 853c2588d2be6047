"""`bitgraph generate`: continue a prompt."""

import sys
import time
from pathlib import Path

import click

from ..graph.errors import BitgraphError
from ..models.adapters.formats import read_adapter
from ..models.bitnet.checkpoint import load_checkpoint
from ..models.bitnet.generate import Generator, Sampling
from ..models.bitnet.tokenizer import Tokenizer
from ..models.data.alpaca import AlpacaRecord, render
from .options import (
    PATH,
    activation_option,
    backend_option,
    device_option,
    from_defaults,
    make_backend,
    model_option,
)


@click.command()
@model_option
@click.option(
    "--lora", type=PATH, help="LoRA adapter, in any format that `bitgraph export` writes."
)
@click.argument("prompt")
@click.option(
    "--template",
    type=click.Choice(["raw", "alpaca"]),
    default="raw",
    show_default=True,
    help="raw: the prompt as it is; alpaca: the prompt as an instruction.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option(
    "--temperature",
    type=float,
    help="0 takes the most probable token.",
    **from_defaults(Sampling, "temperature"),
)
@click.option(
    "--top-k",
    type=click.IntRange(0, 2**31 - 1),
    help="0 keeps all tokens.",
    **from_defaults(Sampling, "top_k"),
)
@click.option("--top-p", type=float, help="1 keeps all.", **from_defaults(Sampling, "top_p"))
@click.option("--seed", type=int, **from_defaults(Sampling, "seed"))
@click.option("--stats", is_flag=True, help="Print the speed at the end, on standard error.")
@activation_option
@backend_option
@device_option
def generate(
    model: Path,
    lora: Path | None,
    prompt: str,
    template: str,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stats: bool,
    activation: str | None,
    backend: str,
    device: str | None,
) -> None:
    """Continue PROMPT, streaming text until a stop token or --max-tokens."""
    sampling = Sampling(temperature, top_k, top_p, seed)
    checkpoint = load_checkpoint(model, activation)
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(model))
    text = render(AlpacaRecord(prompt, "", ""))[0] if template == "alpaca" else prompt
    ids = tokenizer.encode(text, bos=tokenizer.add_bos)
    if not ids:
        raise BitgraphError("the prompt is empty; give some text")
    generator = Generator(
        checkpoint.config,
        checkpoint.weights,
        make_backend(backend, device),
        read_adapter(lora, checkpoint.config) if lora else None,
        context=len(ids) + max_tokens,
    )
    stream, count, begin = tokenizer.stream(), 0, time.perf_counter()
    for token in generator.generate(ids, sampling, tokenizer.stop_ids, max_tokens):
        count += 1
        sys.stdout.write(stream.push(token))
        sys.stdout.flush()
    sys.stdout.write(stream.finish() + "\n")
    if stats:
        seconds = time.perf_counter() - begin
        click.echo(f"{count} tokens, {count / seconds:.1f} tokens/s with the prompt", err=True)
