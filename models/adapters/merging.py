"""Why an adapter is not merged into ternary weights: what the rounding would do to it, measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...graph.tensors import Array, HostValue, Ternary
from ..bitnet.hf_checkpoint import ternarize
from .lora import LoraAdapter


@dataclass(frozen=True)
class MergeError:
    """Errors of rounding W + s B A back to ternary weights, over the size of s B A itself.

    Sizes are Frobenius norms over all adapted modules. An error of 1 is as large as the adapter's
    own effect: leaving the adapter out altogether makes that error.

    Attributes:
        absmean: with codes and scale anew from the mean magnitude, as the model was made.
        kept_scale: with the scales as they are, and the nearest codes.
        flipped: part of the codes that `kept_scale` changes.
    """

    absmean: float
    kept_scale: float
    flipped: float


def merge_error(adapter: LoraAdapter, weights: Mapping[str, HostValue]) -> MergeError | None:
    """Measure what merging would do; None if the adapter changes nothing, because B is zero.

    Args:
        adapter: one that fits the model.
        weights: of the model, by name.
    """
    effect = absmean = kept = 0.0
    flipped = count = 0
    for module in adapter.modules:
        weight = weights[f"{module}.weight"]
        assert isinstance(weight, Ternary), "only ternary projections are adapted"
        before = weight.codes()
        dense = before * np.float32(weight.scale)
        wanted = dense + _update(adapter, module)
        again = ternarize(wanted)
        codes = np.clip(np.rint(wanted / np.float32(weight.scale)), -1, 1)
        effect += _square(wanted - dense)
        absmean += _square(again.dense(np.float32) * np.float32(again.scale) - wanted)
        kept += _square(codes * np.float32(weight.scale) - wanted)
        flipped += int(np.count_nonzero(codes != before))
        count += codes.size
    if not effect:
        return None
    return MergeError(math.sqrt(absmean / effect), math.sqrt(kept / effect), flipped / count)


def _update(adapter: LoraAdapter, module: str) -> Array:
    a, b = (adapter.tensors[f"{module}.lora_{half}.weight"] for half in "AB")
    update: Array = np.float32(adapter.scaling_of(module)) * (b @ a)
    return update


def _square(x: Array) -> float:
    return float(np.square(x, dtype=np.float64).sum())
