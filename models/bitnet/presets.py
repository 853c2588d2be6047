"""Models with random weights: the geometries that are known by name, and writing such a file."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import numpy as np

from ...graph.errors import BitgraphError
from ...graph.tensors import Array, HostValue, Ternary, packed_bytes
from .config import BitNetConfig, is_projection, weight_shapes
from .gguf_checkpoint import save_checkpoint
from .synthetic_tokenizer import synthetic_tokenizer

PRESETS: Final[Mapping[str, BitNetConfig]] = {
    "tiny": BitNetConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
    ),
    "nano": BitNetConfig(
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
    ),
    "2b-4t": BitNetConfig(
        vocab_size=128256,
        hidden_size=2560,
        intermediate_size=6912,
        num_hidden_layers=30,
        num_attention_heads=20,
        num_key_value_heads=5,
        head_dim=128,
        max_position_embeddings=4096,
    ),
}
"""Geometries by name; `2b-4t` is that of microsoft/bitnet-b1.58-2B-4T, `nano` that of the demo."""

_ROWS: Final = 4096  # embedding rows drawn at a time, to bound the memory of float32 draws
_TERNARY_BYTES: Final = np.array(
    [byte for byte in range(256) if all(byte >> shift & 3 != 3 for shift in (0, 2, 4, 6))],
    dtype=np.uint8,
)
"""The 81 bytes that hold four codes 0, 1 or 2."""


def preset_config(name: str, **overrides: int | None) -> BitNetConfig:
    """A preset with some fields replaced; None keeps the preset's value.

    `head_dim` follows from the other fields unless it is given.

    Raises:
        BitgraphError: there is no such preset, or the fields do not describe a model.
    """
    if name not in PRESETS:
        raise BitgraphError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    given: dict[str, Any] = {
        field: value for field, value in overrides.items() if value is not None
    }
    preset = PRESETS[name]
    heads = given.get("num_attention_heads", preset.num_attention_heads)
    head_dim = given.get("hidden_size", preset.hidden_size) // max(heads, 1)
    return replace(preset, **{"head_dim": head_dim, **given})


def write_random_model(path: Path, config: BitNetConfig, seed: int) -> None:
    """Write a model with random weights and a synthetic tokenizer; the same seed, the same file.

    Weights are scaled so that activations stay near unit size in every layer and the initial
    cross entropy is near log(vocab_size). Memory is that of the embedding, the largest tensor.

    Raises:
        BitgraphError: the seed is negative, the geometry cannot be stored, or the file cannot be
            written.
    """
    if seed < 0:
        raise BitgraphError(f"the seed must not be negative, but is {seed}")
    tokenizer = synthetic_tokenizer(config.vocab_size)
    save_checkpoint(path, config, _RandomWeights(weight_shapes(config), seed), tokenizer, "random")


@dataclass(frozen=True)
class _RandomWeights(Mapping[str, HostValue]):
    """Weights drawn when they are asked for, each from a generator of its own."""

    shapes: Mapping[str, tuple[int, ...]]
    seed: int

    def __getitem__(self, weight: str) -> HostValue:
        shape = self.shapes[weight]
        rng = np.random.default_rng([self.seed, crc32(weight.encode())])
        if is_projection(weight):
            return random_ternary(rng, shape)
        if weight.endswith("norm.weight"):
            return rng.uniform(0.9, 1.1, shape).astype(np.float32)
        return _random_embedding(rng, shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def random_ternary(rng: np.random.Generator, shape: tuple[int, ...]) -> Ternary:
    """A matrix of uniform codes; their variance is 2/3, so its scale keeps the size of a vector."""
    draws = rng.integers(0, _TERNARY_BYTES.size, packed_bytes(math.prod(shape)), dtype=np.uint8)
    return Ternary(_TERNARY_BYTES[draws], math.sqrt(1.5 / shape[1]), shape)


def _random_embedding(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal float16 of a size that gives logits a standard deviation of 1/2."""
    embedding = np.empty(shape, np.float16)
    for start in range(0, shape[0], _ROWS):
        rows = embedding[start : start + _ROWS]
        rows[:] = rng.standard_normal(rows.shape, np.float32) * np.float32(0.5 / shape[1] ** 0.5)
    return embedding
