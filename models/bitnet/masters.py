"""Float master weights: drawn to begin with, and the model that they stand for."""

import math
from collections.abc import Mapping
from typing import Final
from zlib import crc32

import numpy as np

from ...graph.ops import OPS
from ...graph.tensors import Array, HostValue, Ternary
from .config import BitNetConfig, is_projection, weight_shapes

_RESIDUAL: Final = ("o_proj.weight", "down_proj.weight")
"""Ends of the names of the projections that write into the residual stream."""


def initial_masters(config: BitNetConfig, seed: int) -> dict[str, Array]:
    """Weights to begin pretraining with, f32, each from a generator of its own.

    Gains of norms are 1. A projection [out, in] is normal with the deviation 1 / sqrt(in), which
    keeps the size of a vector; the two of each block that write into the residual stream get
    1 / sqrt(2 layers) of that, as in GPT-2 (Radford et al., 2019), so that the stream's size does
    not depend on the number of layers. An embedding of width d has the deviation 0.5 / sqrt(d):
    behind the last norm the logits then have the deviation 1/2, and the loss begins near
    log(vocabulary).

    Args:
        config: the model's geometry.
        seed: at least 0.
    """
    return {name: _draw(config, name, shape, seed) for name, shape in weight_shapes(config).items()}


def _draw(config: BitNetConfig, name: str, shape: tuple[int, ...], seed: int) -> Array:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    rng = np.random.default_rng([seed, crc32(name.encode())])
    deviation = 1 / math.sqrt(shape[1])
    if not is_projection(name):
        deviation *= 0.5
    elif name.endswith(_RESIDUAL):
        deviation /= math.sqrt(2 * config.num_hidden_layers)
    drawn: Array = rng.standard_normal(shape, np.float32) * np.float32(deviation)
    return drawn


def masters_of(weights: Mapping[str, HostValue]) -> dict[str, Array]:
    """Masters that stand for a model's weights, f32: `model_weights` gives these back.

    The absmean of what `ternarize` rounds is the scale of the result. So codes are multiplied by
    the scale over the share of those that are not zero; rounding it may move its last bits.
    """
    return {
        name: _spread(value) if isinstance(value, Ternary) else np.asarray(value, np.float32)
        for name, value in weights.items()
    }


def _spread(weight: Ternary) -> Array:
    codes = weight.dense(np.float32)
    share = np.mean(np.abs(codes), dtype=np.float64)
    masters: Array = codes * np.float32(weight.scale / share if share else 0.0)
    return masters


def model_weights(masters: Mapping[str, Array]) -> dict[str, HostValue]:
    """The weights of the model that masters stand for: projections as the op `ternarize` has them.

    Args:
        masters: by the names of `weight_shapes`.
    """
    return {
        name: _ternarized(value) if is_projection(name) else value
        for name, value in masters.items()
    }


def _ternarized(master: Array) -> Ternary:
    ternary = OPS["ternarize"].eval(master)
    assert isinstance(ternary, Ternary)
    return ternary
