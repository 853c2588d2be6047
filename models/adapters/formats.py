"""The formats of an adapter on disk, told apart by what lies there."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ...graph.errors import BitgraphError
from ..bitnet.config import BitNetConfig
from ..files import first_bytes
from ..gguf.types import MAGIC as GGUF_MAGIC
from .gguf import DEFAULT_ARCHITECTURE, read_gguf_adapter, write_gguf_adapter
from .hesper import WIDTHS, is_hesper, read_hesper, write_hesper
from .lora import LoraAdapter
from .peft import load_adapter, save_adapter

FORMATS: Final = ("peft", "gguf", "hesper")


def read_adapter(path: Path, config: BitNetConfig | None = None) -> LoraAdapter:
    """Read a PEFT folder, llama.cpp's GGUF file or Hesper's lora_weights.bin.

    Args:
        path: the folder or the file.
        config: the model that it belongs to, whose widths Hesper's files lack; None for 2B-4T.

    Raises:
        BitgraphError: it is damaged, or none of these.
    """
    if not path.is_file():
        return load_adapter(path)
    if first_bytes(path, 4) == GGUF_MAGIC:
        return read_gguf_adapter(path)
    if is_hesper(path):
        return read_hesper(path, (config.hidden_size, config.key_value_size) if config else WIDTHS)
    raise BitgraphError(
        f"{path} is not an adapter; give a PEFT folder, a GGUF adapter or Hesper's lora_weights.bin"
    )


def write_adapter(
    path: Path, adapter: LoraAdapter, kind: str, config: BitNetConfig | None = None
) -> None:
    """Write an adapter in one of `FORMATS`.

    Args:
        path: a folder for peft, else a file.
        adapter: what to write.
        kind: one of `FORMATS`.
        config: the model that it belongs to, whose architecture a GGUF file must name; None for
            that of Microsoft's files.

    Raises:
        BitgraphError: the format cannot hold the adapter, or it cannot be written.
    """
    architecture = config.architecture if config else DEFAULT_ARCHITECTURE
    writers: dict[str, Callable[[], None]] = {
        "peft": lambda: save_adapter(path, adapter),
        "gguf": lambda: write_gguf_adapter(path, adapter, architecture),
        "hesper": lambda: write_hesper(path, adapter),
    }
    writers[kind]()


def not_kept(adapter: LoraAdapter, kind: str) -> list[str]:
    """What of an adapter a format has no place for, in words; none of it changes a result."""
    if kind == "peft":
        return []
    lost = [f"the base model's name ({adapter.base_model})"] if adapter.base_model else []
    if adapter.rslora:
        lost.append("rank-stabilized scaling (alpha is adjusted to give the same factor)")
    return lost
