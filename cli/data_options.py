"""Options that say what the data are, and loading them: for every command that reads data."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..graph.storage import Storage, cache_folder
from ..models.bitnet.tokenizer import Tokenizer
from ..models.data.encoding import EncodingOptions
from ..models.data.source import PreparedSet, prepare
from .options import PATH


@dataclass(frozen=True)
class DataOptions:
    """What `data_options` asks for.

    Attributes:
        data: the file.
        template: name or file of one, None for that of the file's format.
        max_seq_len: tokens an example is cut to.
        train_on_prompt: train every token.
        cache: whether the tokenized data are kept on disk.
    """

    data: Path
    template: str | None
    max_seq_len: int
    train_on_prompt: bool
    cache: bool

    def facts(self) -> dict[str, Any]:
        """The options as they go into a run's metrics."""
        return asdict(self) | {"data": str(self.data)}


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a command that reads data; it gets them as one `DataOptions`, named `source`."""

    @wraps(command)
    def gathered(**values: Any) -> Any:
        own = {field.name: values.pop(field.name) for field in fields(DataOptions)}
        return command(source=DataOptions(**own), **values)

    options = (
        click.option(
            "--data",
            type=PATH,
            required=True,
            help="Records (Alpaca, chat, ShareGPT; JSON or JSONL) or plain text.",
        ),
        click.option(
            "--template",
            help="alpaca, bitnet-chat or a Jinja file; by default, what fits the records.",
        ),
        click.option(
            "--max-seq-len",
            type=int,
            default=EncodingOptions.max_length,
            show_default=True,
            help="Tokens an example is cut to.",
        ),
        click.option(
            "--train-on-prompt", is_flag=True, help="Train all tokens, not only the responses."
        ),
        click.option(
            "--cache/--no-cache",
            default=True,
            show_default=True,
            help="Keep the tokenized data on disk, for the next run.",
        ),
    )
    decorated: Callable[..., Any] = gathered
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def load_data(console: Console, source: DataOptions, tokenizer: Tokenizer) -> PreparedSet:
    """The examples of a data file.

    Raises:
        BitgraphError: the file, a record or the template is wrong.
    """
    options = EncodingOptions(source.max_seq_len, source.train_on_prompt)
    storage = Storage(cache_folder() / "data") if source.cache else None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("tokenizing", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return prepare(source.data, tokenizer, options, source.template, storage, advance)


def describe_data(console: Console, source: DataOptions, prepared: PreparedSet) -> None:
    """Print what a data file gave, and what was cut or skipped."""
    counts, examples = prepared.encoded.counts, prepared.encoded.examples
    tokens = sum(example.tokens.size for example in examples)
    template = f" with the template {prepared.template}" if prepared.template else ""
    cached = ", from the cache" if prepared.cached else ""
    losses = (
        (True, f"{counts.cut:,} cut to {source.max_seq_len} tokens"),
        (counts.split, f"{counts.split:,} split into pieces of as many"),
        (True, f"{counts.unanswered:,} skipped without a response"),
        (counts.crowded, f"{counts.crowded:,} skipped because no response fits"),
    )
    console.print(
        f"{source.data}: {len(examples):,} examples, {tokens:,} tokens from {counts.records:,} "
        f"{prepared.format} records{template}{cached}; "
        + ", ".join(text for told, text in losses if told)
    )
