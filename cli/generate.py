"""`bitgraph generate`: continue a prompt, many, or a conversation."""

import sys
import time
from pathlib import Path
from typing import Any

import click

from ..graph.errors import BitgraphError
from ..models.bitnet.batch import SEQUENCES, BatchGenerator
from ..models.bitnet.checkpoint import Checkpoint, load_checkpoint
from ..models.bitnet.generate import Generator, Sampling
from ..models.bitnet.tokenizer import Tokenizer
from ..models.data.encoding import encode_prompt
from ..models.data.records import Turn
from ..models.data.templates.template import Template, load_template
from .chat import chat
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
from .prompts import one_by_one, read_prompts, together, write_answers
from .session import Adapters, Session, parse_adapter


@click.command()
@model_option
@lora_option
@click.option("--use", metavar="NAME,...", help="Use only these adapters at first.")
@click.argument("prompt", required=False)
@click.option("--chat", "converse", is_flag=True, help="Answer the lines of standard input.")
@click.option("--system", metavar="TEXT", help="What a conversation is told first.")
@click.option("--prompts", type=PATH, help="Prompts, one a line, or JSONL with 'prompt'.")
@click.option("--out", type=PATH, help="File for the answers to --prompts, as JSONL.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=SEQUENCES,
    show_default=True,
    help="Prompts of a file that are answered at a time; 1 with a repetition penalty.",
)
@click.option(
    "--template",
    show_default="raw, of a conversation bitnet-chat",
    help="raw: the prompt as it is; else as a user's words: alpaca, bitnet-chat, or a Jinja file.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--context", type=click.IntRange(min=2), help="Tokens that a conversation may have.")
@click.option("--stop", "stops", multiple=True, metavar="TEXT", help="Text that ends an answer.")
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
@click.option(
    "--min-p",
    type=float,
    help="Keep tokens at least this part as probable as the best; 0 keeps all.",
    **from_defaults(Sampling, "min_p"),
)
@click.option(
    "--repetition-penalty",
    type=float,
    help="Above 1 makes tokens that were there less probable.",
    **from_defaults(Sampling, "repetition_penalty"),
)
@click.option("--seed", type=int, **from_defaults(Sampling, "seed"))
@click.option("--stats", is_flag=True, help="Print the speed at the end, on standard error.")
@activation_option
@backend_option
@device_option
def generate(
    model: Path,
    lora: tuple[str, ...],
    use: str | None,
    prompt: str | None,
    converse: bool,
    system: str | None,
    prompts: Path | None,
    out: Path | None,
    batch_size: int,
    template: str | None,
    max_tokens: int,
    context: int | None,
    stops: tuple[str, ...],
    stats: bool,
    activation: str | None,
    backend: str,
    device: str | None,
    **sampled: Any,
) -> None:
    """Continue PROMPT, streaming text until a stop token, a --stop text or --max-tokens.

    Instead of PROMPT, --prompts answers those of a file, and --chat converses.
    """
    if [prompt is not None, prompts is not None, converse].count(True) != 1:
        raise click.UsageError("Give one of PROMPT, --prompts and --chat.")
    if converse and template == "raw":
        raise click.UsageError("A conversation needs a --template other than raw.")
    sampling = Sampling(**sampled)
    asked = read_prompts(prompts) if prompts else []
    checkpoint = load_checkpoint(model, activation)
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(model))
    template = template or ("bitnet-chat" if converse else "raw")
    form = None if template == "raw" else load_template(template)
    texts = [item.text for item in asked] if prompt is None else [prompt]
    ids = [_encode(tokenizer, text, form) for text in texts]
    named = [parse_adapter(text, checkpoint.config) for text in lora]
    used = None if use is None else [name for name in use.split(",") if name]
    adapters = Adapters(named, used)
    if not converse:
        context = max(map(len, ids)) + max_tokens
    for item, tokens in zip(asked, ids, strict=False):
        _check_length(tokens, checkpoint, item.where)
    loaded = (checkpoint.config, checkpoint.weights, make_backend(backend, device))
    if min(batch_size, len(asked)) > 1 and not sampling.penalized:
        many = BatchGenerator(
            *loaded,
            adapters.together(),
            longest=max(map(len, ids)),
            max_tokens=max_tokens,
            sequences=min(batch_size, len(asked)),
        )
        begin = time.perf_counter()
        count = write_answers(asked, together(many, tokenizer, sampling, stops, ids), out)
        _print_speed(count, begin, stats)
        return
    generator = Generator(*loaded, adapters.together(), context)
    session = Session(tokenizer, generator, adapters, sampling, max_tokens, stops)
    if converse and form is not None:
        chat(session, form, system)
    elif prompts is not None:
        begin = time.perf_counter()
        count = write_answers(asked, one_by_one(session, ids), out)
        _print_speed(count, begin, stats)
    else:
        _continue(session, ids[0], stats)


def _continue(session: Session, ids: list[int], stats: bool) -> None:
    """Stream one answer to standard output."""
    begin = time.perf_counter()
    answer = session.answer(ids)
    for piece in answer:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    _print_speed(len(answer.tokens), begin, stats)


def _print_speed(count: int, begin: float, stats: bool) -> None:
    """Say, if that is asked for, how long some tokens took."""
    if stats:
        seconds = time.perf_counter() - begin
        click.echo(f"{count} tokens, {count / seconds:.1f} tokens/s with the prompt", err=True)


def _encode(tokenizer: Tokenizer, text: str, template: Template | None) -> list[int]:
    """A prompt as it is, or as the words of a user."""
    if template is None:
        ids = tokenizer.encode(text, bos=tokenizer.add_bos)
    else:
        ids = encode_prompt([Turn("user", text)], template, tokenizer)
    if not ids:
        raise BitgraphError("the prompt is empty; give some text")
    return ids


def _check_length(tokens: list[int], checkpoint: Checkpoint, where: str) -> None:
    context = checkpoint.config.max_position_embeddings
    if len(tokens) >= context:
        raise BitgraphError(
            f"{where}: the prompt has {len(tokens)} tokens, but the model's context holds {context}"
        )
