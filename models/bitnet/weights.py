"""A model on disk, opened: what readers of every format give."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...graph.tensors import HostValue
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
