"""LoRA adapters as llama.cpp loads them: one GGUF file.

Keys: `general.type` "adapter", `adapter.type` "lora", `adapter.lora.alpha`, and the architecture,
which must be that of the model's file. Tensors: `blk.N.attn_q.weight.lora_a` [r, in] and `.lora_b`
[out, r]. The factor is alpha / r; an alpha of 0 stands for the factor 1.
"""

import math
import re
from pathlib import Path
from typing import Final

import numpy as np

from ...graph.errors import BitgraphError
from ..bitnet.config import ARCHITECTURES
from ..bitnet.gguf_checkpoint import LAYER_NAMES
from ..gguf import GgufFile, MetadataValue, TensorSource, read_gguf, write_gguf
from .lora import LoraAdapter, Tensor, validate

DEFAULT_ARCHITECTURE: Final = "bitnet-b1.58"

_ALPHA: Final = "adapter.lora.alpha"
_THEIRS: Final = {ours: name for ours, name in LAYER_NAMES.items() if ours.endswith("_proj")}
_OURS: Final = {theirs: ours for ours, theirs in _THEIRS.items()}
_NAME: Final = re.compile(r"blk\.(0|[1-9][0-9]{0,8})\.([a-z_]+)\.weight\.lora_([ab])")


def write_gguf_adapter(
    path: Path, adapter: LoraAdapter, architecture: str = DEFAULT_ARCHITECTURE
) -> None:
    """Write an adapter as one float32 GGUF file.

    Rank-stabilized scaling becomes an alpha that gives the same factor; the target modules and the
    base model's name are not kept.

    Args:
        path: the file; what stood there is replaced.
        adapter: what to write.
        architecture: `general.architecture` of the model's GGUF file.

    Raises:
        BitgraphError: the adapter is not valid or adapts something that GGUF has no name for, or
            the file cannot be written.
    """
    validate(adapter)
    metadata: dict[str, MetadataValue] = {
        "general.architecture": architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        _ALPHA: stored_alpha(adapter),
    }
    tensors = [
        TensorSource.of(f"{_their_name(module)}.lora_{half.lower()}", _half(adapter, module, half))
        for module in adapter.modules
        for half in "AB"
    ]
    write_gguf(path, metadata, tensors)


def read_gguf_adapter(path: Path) -> LoraAdapter:
    """Read an adapter; what `write_gguf_adapter` wrote comes back bit for bit.

    Its target modules are the paths of the modules that it has tensors for.

    Raises:
        BitgraphError: the file is damaged, holds something else, or an adapter of something else.
    """
    file = read_gguf(path)
    try:
        return _adapter(file)
    except BitgraphError as error:
        raise BitgraphError(f"{path}: {error}") from None


def stored_alpha(adapter: LoraAdapter) -> float:
    """Alpha for a format that scales every module by alpha / r and keeps it as float32.

    Raises:
        BitgraphError: modules have different ones, or float32 cannot hold it.
    """
    alphas = {
        adapter.scaling_of(m) * adapter.rank_of(m) if adapter.rslora else adapter.alpha_of(m)
        for m in adapter.modules
    }
    if len(alphas) > 1:
        raise BitgraphError(
            f"its modules are scaled by different alphas ({min(alphas):g} to {max(alphas):g}), for "
            "which this format has one; export to peft"
        )
    (alpha,) = alphas
    with np.errstate(over="ignore", under="ignore"):
        narrow = np.float32(alpha)
    if not 0 < narrow < np.inf:
        raise BitgraphError(f"alpha is {alpha:g}, which this format's float32 cannot hold")
    return float(narrow)


def _half(adapter: LoraAdapter, module: str, half: str) -> Tensor:
    return adapter.tensors[f"{module}.lora_{half}.weight"]


def _their_name(module: str) -> str:
    _, layer, path = module.split(".", 2)
    if path not in _THEIRS:
        raise BitgraphError(f"{module} has no name in a GGUF file of BitNet; export to peft")
    return f"blk.{layer}.{_THEIRS[path]}.weight"


def _adapter(file: GgufFile) -> LoraAdapter:
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if file.metadata.get(key) != wanted:
            found = file.metadata.get(key)
            raise BitgraphError(f"{key} is {found!r}, not {wanted!r}; give the file of an adapter")
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise BitgraphError(f"it is an adapter for {architecture!r}, which is no BitNet")
    tensors = dict(_tensor(file, name) for name in file.tensors)
    ranks = {n.rsplit(".lora_", 1)[0]: t.shape[0] for n, t in tensors.items() if ".lora_A." in n}
    modules = tuple(sorted({name.rsplit(".lora_", 1)[0] for name in tensors}))
    rank = max(ranks.values(), default=0)
    alpha = _alpha(file)
    return LoraAdapter(
        rank,
        alpha or float(rank),
        modules,
        tensors,
        rank_pattern={module: r for module, r in ranks.items() if r != rank},
        alpha_pattern={} if alpha else {m: float(r) for m, r in ranks.items() if r != rank},
    )


def _alpha(file: GgufFile) -> float:
    alpha = file.metadata.get(_ALPHA, 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise BitgraphError(f"{_ALPHA} is {alpha!r}, not a number")
    return alpha


def _tensor(file: GgufFile, name: str) -> tuple[str, Tensor]:
    """A tensor under our name, widened to float32."""
    match = _NAME.fullmatch(name)
    if match is None or match[2] not in _OURS:
        raise BitgraphError(f"tensor {name!r} is not a LoRA tensor of a BitNet model's layers")
    info = file.tensors[name]
    if info.type.is_ternary or len(info.shape) != 2:
        raise BitgraphError(
            f"tensor {name!r} is {info.type.name} {list(info.shape)}, but must be an F32 or F16 "
            "matrix"
        )
    value = np.asarray(file.load(name), np.float32)
    # A copy: what is read must not change with the file, and may be written to.
    return f"layers.{match[1]}.{_OURS[match[2]]}.lora_{match[3].upper()}.weight", value.copy()
