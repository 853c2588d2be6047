"""A model on disk, opened: what readers of every format give."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...graph.tensors import HostValue, Quantized, Ternary
from ..gguf import MetadataValue
from .config import BitNetConfig


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model on disk, opened.

    Attributes:
        path: where it lies, a GGUF file or a Hugging Face folder.
        config: the model's geometry.
        weights: values by the names of `weight_shapes`, each loaded and checked when first
            asked for: matrices as `Ternary`, norms as float32, embeddings as views of the file
            where they are stored as float16 or float32.
        metadata: key/value pairs as in GGUF, the tokenizer's among them.
    """

    path: Path
    config: BitNetConfig
    weights: Mapping[str, HostValue]
    metadata: Mapping[str, MetadataValue]

    @property
    def tokenizer(self) -> dict[str, MetadataValue]:
        """The pairs of the metadata that are the tokenizer's."""
        return {key: x for key, x in self.metadata.items() if key.startswith("tokenizer.")}


_PROBE = 1 << 14
"""Elements of each weight that tell models apart."""


def model_digest(config: BitNetConfig, weights: Mapping[str, HostValue]) -> str:
    """SHA-256 that tells models apart: of the geometry and the beginning of every weight."""
    digest = hashlib.sha256(repr(config).encode())
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name} {list(value.shape)}\n".encode())
        if isinstance(value, Ternary):
            digest.update(value.scale.hex().encode())
            value = value.packed
        assert not isinstance(value, Quantized)  # activations alone are
        digest.update(np.ascontiguousarray(value.reshape(-1)[:_PROBE]).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class LazyWeights(Mapping[str, HostValue]):
    """Weights that `load` makes when they are first asked for, then kept."""

    names: tuple[str, ...]
    load: Callable[[str], HostValue]
    kept: dict[str, HostValue] = field(default_factory=dict, repr=False)

    def __getitem__(self, weight: str) -> HostValue:
        if weight not in self.kept:
            if weight not in self.names:
                raise KeyError(weight)
            self.kept[weight] = self.load(weight)
        return self.kept[weight]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
