"""BitNet checkpoints in GGUF: Microsoft's (`bitnet-b1.58`, `bitnet-25`) and mainline's (`bitnet`).

Tensor names: llama.cpp's. A matrix is [out, in], packed as I2_S (also read: TQ1_0, TQ2_0).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from ...graph.errors import BitgraphError
from ...graph.tensors import HostValue, Quantized, Ternary
from ..gguf import GgmlType, GgufFile, MetadataValue, TensorSource, read_gguf, write_gguf
from .config import BitNetConfig, is_projection, weight_shapes
from .metadata import read_config, write_config
from .weights import Checkpoint, LazyWeights

LAYER_NAMES: Final = {
    "input_layernorm": "attn_norm",
    "mlp.down_proj": "ffn_down",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_proj": "attn_q",
    "self_attn.v_proj": "attn_v",
}
"""Names within a block, ours and the file's, in the order of Microsoft's file."""


def load_gguf(path: Path, activation: str | None = None) -> Checkpoint:
    """Open a BitNet GGUF file; arguments and errors as those of `load_checkpoint`."""
    file = read_gguf(path)
    config = read_config(file, activation)
    shapes = weight_shapes(config)
    names = tensor_names(config)
    for weight, name in names.items():
        _check_tensor(file, name, shapes[weight], is_projection(weight))
    _check_unexpected(file, names)
    weights = LazyWeights(tuple(shapes), lambda weight: _load(file, names[weight]))
    return Checkpoint(path, config, weights, file.metadata)


def save_checkpoint(
    path: Path,
    config: BitNetConfig,
    weights: Mapping[str, HostValue],
    tokenizer_metadata: Mapping[str, MetadataValue],
    name: str = "bitnet",
) -> None:
    """Write a model as Microsoft's file is laid out: F32 norms, F16 embedding, I2_S matrices.

    Each weight is asked for once, in file order, and not kept, so `weights` may compute them.

    Args:
        path: the file; what stood there is replaced.
        config: the geometry.
        weights: values by the names of `weight_shapes`.
        tokenizer_metadata: the `tokenizer.*` pairs.
        name: the file's `general.name`.

    Raises:
        BitgraphError: a weight is missing or does not fit the configuration, or the file cannot
            be written.
    """
    tensors = checkpoint_tensors(config, weights)
    write_gguf(path, write_config(config, tokenizer_metadata, name), tensors)


def checkpoint_tensors(
    config: BitNetConfig, weights: Mapping[str, HostValue]
) -> list[TensorSource]:
    """The tensors of a model file, in the order of Microsoft's; none is asked for yet."""
    shapes = weight_shapes(config)
    return [
        TensorSource(name, _stored_type(weight), shapes[weight], partial(_stored, weights, weight))
        for weight, name in tensor_names(config).items()
    ]


def tensor_names(config: BitNetConfig) -> dict[str, str]:
    """Names in the file by our names, in file order.

    The embedding comes first, then the blocks, their numbers sorted as text, then the last norm.
    """
    names = {"embed_tokens.weight": "token_embd.weight"}
    if not config.tie_word_embeddings:
        names["lm_head.weight"] = "output.weight"
    for layer in sorted(range(config.num_hidden_layers), key=str):
        for ours, theirs in LAYER_NAMES.items():
            names[f"layers.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"
    names["norm.weight"] = "output_norm.weight"
    return names


def _load(file: GgufFile, name: str) -> HostValue:
    """One weight; a matrix takes in the `.scale` beside it that mainline's files may have."""
    value = file.load(name)
    if isinstance(value, Ternary):
        factor = _scale_name(name)
        return value if factor not in file.tensors else _scaled(file, value, factor)
    if isinstance(value, np.ndarray) and name.endswith("norm.weight"):
        value = value.astype(np.float32, copy=False)
        if not np.isfinite(value).all():
            raise BitgraphError(f"{file.path}: tensor {name!r} holds values that are not finite")
    return value


def _scaled(file: GgufFile, value: Ternary, name: str) -> Ternary:
    factor = np.asarray(file.load(name)).item()
    if not 0 < factor < np.inf:
        raise BitgraphError(f"{file.path}: tensor {name!r} is {factor}, not a positive number")
    return replace(value, scale=value.scale * factor)


def _scale_name(name: str) -> str:
    return f"{name.removesuffix('weight')}scale"


def _check_tensor(file: GgufFile, name: str, shape: tuple[int, ...], ternary: bool) -> None:
    info = file.tensors.get(name)
    if info is None:
        raise BitgraphError(f"{file.path}: the tensor {name!r} is missing; convert the model again")
    if info.shape != shape:
        raise BitgraphError(
            f"{file.path}: tensor {name!r} has shape {list(info.shape)}, but the model's keys "
            f"call for {list(shape)}"
        )
    if info.type.is_ternary is not ternary:
        wanted = "I2_S, TQ1_0 or TQ2_0" if ternary else "F32 or F16"
        raise BitgraphError(
            f"{file.path}: tensor {name!r} is of type {info.type.name}, but must be {wanted}"
        )


def _check_unexpected(file: GgufFile, names: Mapping[str, str]) -> None:
    scales = {_scale_name(name) for weight, name in names.items() if is_projection(weight)}
    expected = set(names.values())
    for info in file.tensors.values():
        is_scale = info.name in scales and info.type is GgmlType.F32 and info.shape == (1,)
        if info.name not in expected and not is_scale:
            raise BitgraphError(
                f"{file.path}: tensor {info.name!r} of shape {list(info.shape)} is not part of a "
                "BitNet model; this kind of model is not supported"
            )


def _stored_type(weight: str) -> GgmlType:
    if is_projection(weight):
        return GgmlType.I2_S
    return GgmlType.F32 if weight.endswith("norm.weight") else GgmlType.F16


def _stored(weights: Mapping[str, HostValue], weight: str) -> HostValue:
    """A weight in the type it is stored in."""
    try:
        value = weights[weight]
    except KeyError:
        raise BitgraphError(f"the weight {weight} is missing") from None
    kind = _stored_type(weight)
    if kind is GgmlType.I2_S or isinstance(value, Ternary | Quantized):
        return value
    with np.errstate(over="ignore"):
        stored = value.astype(np.float32 if kind is GgmlType.F32 else np.float16, copy=False)
    if not np.isfinite(stored).all():
        raise BitgraphError(f"the weight {weight} holds values that {kind.name} cannot store")
    return stored
