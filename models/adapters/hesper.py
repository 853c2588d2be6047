"""LoRA adapters of Hesper (Verilean/hesper): one file, lora_weights.bin, for q_proj and v_proj.

Layout, little-endian: u32 magic, u32 version 1, u32 rank, f32 alpha, u32 layers, u32 0; then for
each layer, as float32, q's A [r, hidden] and B [hidden, r], v's A [r, hidden] and B [key_value, r].
The widths are the model's and not in the file.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from ...graph.errors import BitgraphError
from ..files import atomic_write, first_bytes
from .gguf import stored_alpha
from .lora import LoraAdapter, Tensor, validate

MAGIC: Final = 0x4C4F5241
WIDTHS: Final = (2560, 640)
"""Hidden and key-value size of microsoft/bitnet-b1.58-2B-4T, the model that Hesper runs."""

_HEADER: Final = struct.Struct("<IIIfII")
_VERSION: Final = 1
_MODULES: Final = ("q_proj", "v_proj")


def write_hesper(path: Path, adapter: LoraAdapter) -> None:
    """Write an adapter of q_proj and v_proj in all layers.

    Rank-stabilized scaling becomes an alpha that gives the same factor; the base model's name is
    not kept.

    Raises:
        BitgraphError: the adapter is not valid, has other modules or lacks one of these, or
            unequal ranks or alphas, or the file cannot be written.
    """
    validate(adapter)
    if len(ranks := sorted(set(map(adapter.rank_of, adapter.modules)))) > 1:
        raise BitgraphError(
            f"its modules have the ranks {ranks[0]} to {ranks[-1]}, but Hesper's format has one; "
            "export to peft or gguf"
        )
    layers = len(adapter.modules) // len(_MODULES)
    _check_modules(adapter, layers)
    header = _HEADER.pack(MAGIC, _VERSION, ranks[0], stored_alpha(adapter), layers, 0)
    with atomic_write(path) as file:
        file.write(header)
        for name in _names(layers):
            file.write(np.ascontiguousarray(adapter.tensors[name], "<f4").tobytes())


def is_hesper(path: Path) -> bool:
    """Whether a file begins as `write_hesper` begins one.

    Raises:
        BitgraphError: it cannot be read.
    """
    return first_bytes(path, 4) == MAGIC.to_bytes(4, "little")


def read_hesper(path: Path, widths: tuple[int, int] = WIDTHS) -> LoraAdapter:
    """Read an adapter; what `write_hesper` wrote comes back bit for bit.

    Args:
        path: the file.
        widths: hidden and key-value size of the model that it belongs to.

    Raises:
        BitgraphError: the file is damaged, or its size is not that of an adapter for such a model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(f"{path} could not be read ({reason}); check the path") from None
    try:
        return _adapter(data, *widths)
    except BitgraphError as error:
        raise BitgraphError(f"{path}: {error}") from None


def _check_modules(adapter: LoraAdapter, layers: int) -> None:
    wanted = {f"layers.{n}.self_attn.{name}" for n in range(layers) for name in _MODULES}
    if strange := sorted(set(adapter.modules) - wanted):
        raise BitgraphError(
            f"the adapter changes {strange[0]}, but Hesper's format has q_proj and v_proj of every "
            "layer and nothing else; train with --target q_proj,v_proj, or export to peft or gguf"
        )
    for name in _names(layers):
        first = adapter.tensors[name.replace(f"layers.{name.split('.')[1]}.", "layers.0.")]
        if adapter.tensors[name].shape != first.shape:
            raise BitgraphError(f"{name} has another shape than in layer 0; export to peft or gguf")


def _names(layers: int) -> Iterator[str]:
    """Tensors in the order of the file."""
    for layer in range(layers):
        for module in _MODULES:
            for half in "AB":
                yield f"layers.{layer}.self_attn.{module}.lora_{half}.weight"


def _adapter(data: bytes, hidden: int, key_value: int) -> LoraAdapter:
    if len(data) < _HEADER.size:
        raise BitgraphError(f"it has {len(data)} bytes, fewer than a header; copy it again")
    magic, version, rank, alpha, layers, _ = _HEADER.unpack_from(data)
    if (magic, version) != (MAGIC, _VERSION):
        raise BitgraphError("it does not begin like an adapter of Hesper, version 1")
    if not rank or not layers:
        raise BitgraphError(f"it has {layers} layers of rank {rank}, but must have at least one")
    shapes = ((rank, hidden), (hidden, rank), (rank, hidden), (key_value, rank))
    size = _HEADER.size + 4 * layers * sum(map(math.prod, shapes))
    if size != len(data):
        raise BitgraphError(
            f"it has {len(data)} bytes, but {layers} layers of rank {rank} for a model of hidden "
            f"size {hidden} and key-value size {key_value} take {size}; name the model with --model"
        )
    tensors: dict[str, Tensor] = {}
    offset = _HEADER.size
    for name, shape in zip(_names(layers), shapes * layers, strict=True):
        values = np.frombuffer(data, "<f4", math.prod(shape), offset)
        tensors[name] = values.reshape(shape).astype(np.float32)
        offset += values.nbytes
    # The shortest decimal that rounds to the float32: 0.1, not 0.10000000149.
    return LoraAdapter(rank, float(str(np.float32(alpha))), _MODULES, tensors)
