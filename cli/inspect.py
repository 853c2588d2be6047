"""`bitgraph inspect`: what a model file or an adapter holds."""

import math
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..models.adapters.peft import load_adapter
from ..models.gguf import GgufFile, MetadataValue, read_gguf

_TOKENIZER = "tokenizer.ggml."
_NORMAL_TOKEN = 1


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor as well.")
def inspect(file: Path, tensors: bool) -> None:
    """Show what FILE holds: a GGUF model, or the folder of a PEFT adapter."""
    console = Console()
    if file.is_dir() or file.suffix == ".safetensors":
        _show_adapter(console, file if file.is_dir() else file.parent, tensors)
    else:
        _show_gguf(console, read_gguf(file), tensors)


def _show_gguf(console: Console, file: GgufFile, tensors: bool) -> None:
    parameters = sum(math.prod(info.shape) for info in file.tensors.values())
    facts = [("file", str(file.path)), ("size", f"{file.size:,} bytes")]
    facts += _model_facts(file)
    facts.append(("parameters", f"{parameters:,}"))
    console.print(_facts_table(facts + _tokenizer_facts(file)))
    console.print(_types_table(file))
    if tensors:
        rows = [
            (info.name, info.type.name, str(list(info.shape)), f"{info.nbytes:,}")
            for info in file.tensors.values()
        ]
        console.print(_table(("tensor", "type", "shape", "bytes"), rows))


def _model_facts(file: GgufFile) -> list[tuple[str, str]]:
    """The scalar keys of the file, those of its architecture without their prefix."""
    prefix = f"{file.metadata.get('general.architecture')}."
    return [
        (key.removeprefix("general.").removeprefix(prefix), _number_or_text(value))
        for key, value in file.metadata.items()
        if not key.startswith("tokenizer.") and isinstance(value, str | int | float)
    ]


def _tokenizer_facts(file: GgufFile) -> list[tuple[str, str]]:
    def get(key: str) -> MetadataValue | None:
        return file.metadata.get(_TOKENIZER + key)

    tokens, merges, types = get("tokens"), get("merges"), get("token_type")
    if not isinstance(tokens, list):
        return []
    facts = [("tokenizer", f"{get('model')}, {len(tokens):,} tokens")]
    if isinstance(merges, list):
        facts.append(("merges", f"{len(merges):,}"))
    if isinstance(types, np.ndarray):
        facts.append(("special tokens", f"{np.count_nonzero(types != _NORMAL_TOKEN):,}"))
    for name in ("bos", "eos", "padding"):
        token = get(f"{name}_token_id")
        if isinstance(token, int) and 0 <= token < len(tokens):
            facts.append((f"{name} token", f"{token} {tokens[token]}"))
    return facts


def _number_or_text(value: str | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _types_table(file: GgufFile) -> Table:
    rows = []
    for kind in sorted({info.type for info in file.tensors.values()}):
        infos = [info for info in file.tensors.values() if info.type is kind]
        parameters = sum(math.prod(info.shape) for info in infos)
        size = sum(info.nbytes for info in infos)
        rows.append((kind.name, f"{len(infos):,}", f"{parameters:,}", f"{size:,}"))
    return _table(("type", "tensors", "parameters", "bytes"), rows)


def _show_adapter(console: Console, folder: Path, tensors: bool) -> None:
    adapter = load_adapter(folder)
    parameters = sum(tensor.size for tensor in adapter.tensors.values())
    facts = [
        ("adapter", str(folder)),
        ("base model", adapter.base_model or "unknown"),
        ("rank", str(adapter.rank)),
        ("alpha", f"{adapter.alpha:g}"),
        ("scaling", f"{adapter.scaling:g}"),
        ("target modules", ", ".join(adapter.target_modules)),
        ("tensors", f"{len(adapter.tensors):,}"),
        ("parameters", f"{parameters:,}"),
    ]
    console.print(_facts_table(facts))
    if tensors:
        rows = [(name, str(list(tensor.shape))) for name, tensor in adapter.tensors.items()]
        console.print(_table(("tensor", "shape"), rows))


def _facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for fact in facts:
        table.add_row(*map(_cell, fact))
    return table


def _table(header: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(box=None)
    for title in header:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(text: str) -> Text:
    """Text of a file, without markup and with nothing in it that a terminal would obey."""
    return Text("".join(letter if letter.isprintable() else "\ufffd" for letter in text))
