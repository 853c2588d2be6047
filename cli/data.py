"""`bitgraph data preview`: what a data file becomes before it is trained on."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..models.bitnet.checkpoint import load_checkpoint
from ..models.bitnet.tokenizer import Tokenizer
from ..models.data.examples import Example
from ..models.data.statistics import LengthStatistics, length_statistics
from .data_options import DataOptions, data_options, describe_data, load_data
from .options import activation_option, model_option

TRAINED, REST, MARK = "bold green", "dim", "bold yellow"
BAR = 40


@click.group()
def data() -> None:
    """Look at training data."""


@data.command()
@model_option
@data_options
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Examples to show.",
)
@click.option(
    "--from",
    "start",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Record to begin with.",
)
@click.option("--tokens", is_flag=True, help="Show each token with its id as well.")
@activation_option
def preview(
    model: Path,
    source: DataOptions,
    count: int,
    start: int,
    tokens: bool,
    activation: str | None,
) -> None:
    """Show examples as the model sees them, and how long they are.

    What is trained stands between « and ».
    """
    console = Console(highlight=False, markup=False, emoji=False)
    tokenizer = Tokenizer.from_metadata(load_checkpoint(model, activation).metadata, str(model))
    prepared = load_data(console, source, tokenizer)
    examples = prepared.encoded.examples
    for example in [each for each in examples if each.record >= start][:count]:
        trained = np.count_nonzero(example.trained)
        console.rule(
            f"record {example.record}: {example.tokens.size} tokens, {trained} trained", style=REST
        )
        console.print(_rendered(example, tokenizer), soft_wrap=True)
        if tokens:
            console.print(_tokens(example, tokenizer))
    console.rule(style=REST)
    describe_data(console, source, prepared)
    _print_statistics(console, length_statistics(examples))


def _rendered(example: Example, tokenizer: Tokenizer) -> Text:
    """The text of an example; what is trained is coloured and between marks."""
    text = Text()
    for trained, run in _runs(example):
        shown = _visible(tokenizer.decode(run, skip_special=False))
        if trained:
            text.append("«", MARK).append(shown, TRAINED).append("»", MARK)
        else:
            text.append(shown, REST)
    return text


def _runs(example: Example) -> Iterator[tuple[bool, list[int]]]:
    """Tokens that follow each other and are all trained, or all not."""
    pairs = zip(example.tokens.tolist(), example.trained.tolist(), strict=True)
    for trained, run in groupby(pairs, key=lambda pair: pair[1]):
        yield trained, [token for token, _ in run]


def _tokens(example: Example, tokenizer: Tokenizer) -> Text:
    """Every token with its id, those that are trained in colour and with a star."""
    text = Text()
    for token, trained in zip(example.tokens.tolist(), example.trained.tolist(), strict=True):
        piece = tokenizer.token_bytes(token).decode(errors="replace")
        shown = repr(piece).replace(" ", "\u2423")  # or a line might end inside of it
        text.append(shown, TRAINED if trained else REST)
        text.append(f":{token}{'*' if trained else ''} ", MARK if trained else REST)
    return text


def _visible(text: str) -> str:
    """Text with nothing in it that a terminal would obey."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text
    )


def _print_statistics(console: Console, statistics: LengthStatistics) -> None:
    share = statistics.trained / statistics.tokens
    console.print(
        f"{statistics.examples:,} examples, {statistics.tokens:,} tokens, {statistics.trained:,} "
        f"of them trained ({share:.0%})"
    )
    table = Table("tokens an example", *(f"{p}%" for p in statistics.percentiles), box=None)
    table.add_row("", *(f"{value:,}" for value in statistics.percentiles.values()))
    console.print(table)
    most = max(count for _, _, count in statistics.histogram)
    for first, last, count in statistics.histogram:
        bar = "#" * round(BAR * count / most)
        console.print(Text(f"{first:>7,}-{last:<7,} {count:>8,} ").append(bar, TRAINED))
