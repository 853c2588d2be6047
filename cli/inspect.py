"""`bitgraph inspect`: what a model file or an adapter holds."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..models.adapters.formats import read_adapter
from ..models.adapters.hesper import is_hesper
from ..models.adapters.lora import LoraAdapter
from ..models.bitnet.checkpoint import load_checkpoint, located
from ..models.bitnet.hf_config import CONFIG
from ..models.files import read_json_object
from ..models.gguf import GgufFile, MetadataValue, read_gguf
from ..models.shards import open_shards
from .options import PATH

_TOKENIZER = "tokenizer.ggml."
_NORMAL_TOKEN = 1

Record: TypeAlias = tuple[str, str, tuple[int, ...], int]
"""Name, type, shape and bytes of a stored tensor."""


@click.command()
@click.argument("file", type=PATH)
@click.option("--tensors", is_flag=True, help="List every tensor as well.")
@click.option("--model", type=PATH, help="Model of an adapter in Hesper's format, if not 2B-4T.")
def inspect(file: Path, tensors: bool, model: Path | None) -> None:
    """Show what FILE holds: a model as a GGUF file or a Hugging Face folder, or an adapter.

    An adapter is a PEFT folder, a GGUF file, or Hesper's lora_weights.bin. demo stands for the
    bundled model.
    """
    console, file = Console(), located(file)
    if (file / CONFIG).exists():
        _show_hf(console, file, tensors)
    elif file.is_dir() or file.suffix == ".safetensors":
        folder = file if file.is_dir() else file.parent
        _show_adapter(console, folder, read_adapter(folder), tensors)
    elif is_hesper(file):
        config = load_checkpoint(model).config if model else None
        _show_adapter(console, file, read_adapter(file, config), tensors)
    else:
        _show_gguf(console, read_gguf(file), tensors)


def _show_gguf(console: Console, file: GgufFile, tensors: bool) -> None:
    parameters = sum(math.prod(info.shape) for info in file.tensors.values())
    facts = [("file", str(file.path)), ("size", f"{file.size:,} bytes")]
    facts += _model_facts(file)
    facts.append(("parameters", f"{parameters:,}"))
    console.print(_facts_table(facts + _tokenizer_facts(file)))
    records = [(i.name, i.type.name, i.shape, i.nbytes) for i in file.tensors.values()]
    _show_tensors(console, records, tensors)


def _show_hf(console: Console, folder: Path, tensors: bool) -> None:
    config = read_json_object(folder / CONFIG)
    stored = open_shards(folder).values()
    facts = [("folder", str(folder))]
    facts += [
        (key, _number_or_text(value))
        for key, value in config.items()
        if isinstance(value, str | int | float)
    ]
    quantization = config.get("quantization_config")
    facts += (
        [(k, str(v)) for k, v in quantization.items()] if isinstance(quantization, dict) else []
    )
    console.print(_facts_table(facts))
    records = [(t.name, t.dtype, t.shape, t.data.nbytes) for t in stored]
    _show_tensors(console, records, tensors)


def _show_tensors(console: Console, records: Sequence[Record], each: bool) -> None:
    """How many tensors there are of each type, and perhaps each of them."""
    console.print(_types_table(records))
    if each:
        rows = [(name, kind, str(list(shape)), f"{size:,}") for name, kind, shape, size in records]
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


def _types_table(records: Sequence[Record]) -> Table:
    rows = []
    for kind in sorted({kind for _, kind, _, _ in records}):
        of_kind = [(math.prod(shape), size) for _, its, shape, size in records if its == kind]
        elements, sizes = zip(*of_kind, strict=True)
        rows.append((kind, f"{len(of_kind):,}", f"{sum(elements):,}", f"{sum(sizes):,}"))
    return _table(("type", "tensors", "elements", "bytes"), rows)


def _show_adapter(console: Console, path: Path, adapter: LoraAdapter, tensors: bool) -> None:
    parameters = sum(tensor.size for tensor in adapter.tensors.values())
    facts = [
        ("adapter", str(path)),
        ("base model", adapter.base_model or "unknown"),
        ("rank", str(adapter.rank)),
        ("alpha", f"{adapter.alpha:g}"),
        ("scaling", f"{adapter.scaling:g}"),
        *((f"rank of {name}", str(rank)) for name, rank in adapter.rank_pattern.items()),
        *((f"alpha of {name}", f"{alpha:g}") for name, alpha in adapter.alpha_pattern.items()),
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
