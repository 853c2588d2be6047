"""BitNet checkpoints as Hugging Face folders: packed ternary weights, or their masters.

Packed: a matrix [out, in] is U8 [out / 4, in] beside a `weight_scale` [1]. Masters are floats that
are made ternary as transformers does it for every forward pass (`linear_class` autobitlinear,
`quantization_mode` online). Tensor names: `weight_shapes` with "model." before them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from ...graph.errors import BitgraphError
from ...graph.tensors import Array, HostValue, Ternary
from ..files import read_json_object
from ..shards import StoredTensor, open_shards
from .config import BitNetConfig, is_projection, weight_shapes
from .hf_config import CONFIG, read_hf_config, scale_is_inverse
from .hf_tokenizer import read_hf_tokenizer
from .weights import Checkpoint, LazyWeights

_SMALLEST_MEAN: Final = np.float32(1e-5)


def load_hf(folder: Path, activation: str | None = None) -> Checkpoint:
    """Open a Hugging Face folder; arguments and errors as those of `load_checkpoint`."""
    path = folder / CONFIG
    if not path.is_file():
        raise BitgraphError(
            f"{folder} has no {CONFIG}; give a .gguf file or the folder of a Hugging Face model"
        )
    keys = read_json_object(path)
    stored = open_shards(folder)
    config = read_hf_config(keys, path, len(stored), activation)
    shapes = weight_shapes(config)
    for weight, shape in shapes.items():
        _check_tensor(stored, folder, weight, shape)
    _check_unexpected(stored, config)
    packed = any(stored[_name(weight)].dtype == "U8" for weight in shapes)
    inverse = packed and scale_is_inverse(keys, path)

    def load(weight: str) -> HostValue:
        tensor = stored[_name(weight)]
        if not is_projection(weight):
            return _table(tensor) if len(shapes[weight]) == 2 else _norm(tensor)
        if tensor.dtype == "U8":
            return _unpack(tensor, stored[_scale_name(weight)], inverse)
        return ternarize(_finite(tensor))

    metadata = read_hf_tokenizer(folder, keys, config.vocab_size)
    return Checkpoint(folder, config, LazyWeights(tuple(shapes), load), metadata)


def ternarize(master: Array) -> Ternary:
    """Round a float matrix to ternary by its mean magnitude, as BitNet b1.58 is trained.

    scale = max(mean |w|, 1e-5), code = clip(round(w / scale), -1, 1), halves to even. Source: "The
    Era of 1-bit LLMs" (Ma et al., 2024); transformers computes it in float32 too.
    """
    mean = np.float32(np.abs(master, dtype=np.float32).mean(dtype=np.float64))
    factor = np.float32(1) / max(mean, _SMALLEST_MEAN)
    codes = np.clip(np.rint(master.astype(np.float32) * factor), -1, 1).astype(np.int8)
    return Ternary.pack(codes, float(np.float32(1) / factor))


def _unpack(tensor: StoredTensor, scale: StoredTensor, inverse: bool) -> Ternary:
    """A packed matrix: bits 2 i and 2 i + 1 of packed row r hold row i out / 4 + r, as code + 1."""
    rows = tensor.data.reshape(tensor.shape)
    codes = np.concatenate([rows >> np.uint8(2 * i) & np.uint8(3) for i in range(4)])
    if (codes == 3).any():
        raise tensor.error("holds a 2-bit code 3, which stands for no weight; fetch it again")
    value = float(scale.floats().item())
    if not 0 < value < np.inf:
        raise scale.error(f"is {value}, not a positive number; fetch it again")
    return Ternary.pack(codes.astype(np.int8) - np.int8(1), 1 / value if inverse else value)


def _finite(tensor: StoredTensor) -> Array:
    values = tensor.floats()
    if not np.isfinite(values).all():
        raise tensor.error("holds values that are not finite; fetch it again")
    return values


def _norm(tensor: StoredTensor) -> Array:
    return _finite(tensor).astype(np.float32, copy=False)


def _table(tensor: StoredTensor) -> Array:
    """An embedding; BF16 becomes float16, as in GGUF files, if that can hold it.

    float16 has more digits but fewer exponents: magnitudes below 2^-14 are rounded to multiples of
    2^-24, what is above 65504 does not fit.
    """
    values = tensor.floats()
    if tensor.dtype != "BF16":
        return values
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    return narrow if np.isfinite(narrow).all() else values


def _name(weight: str) -> str:
    return weight if weight.startswith("lm_head.") else f"model.{weight}"


def _scale_name(weight: str) -> str:
    return f"{_name(weight)}_scale"


def _check_tensor(
    stored: Mapping[str, StoredTensor], folder: Path, weight: str, shape: tuple[int, ...]
) -> None:
    tensor = _required(stored, folder, _name(weight))
    if is_projection(weight) and tensor.dtype == "U8":
        if shape[0] % 4:
            raise tensor.error(f"is packed, but its {shape[0]} rows are no multiple of 4")
        shape = (shape[0] // 4, shape[1])
        scale = _required(stored, folder, _scale_name(weight))
        if not scale.is_float or scale.shape not in ((), (1,)):
            raise scale.error(f"is {scale.dtype} {list(scale.shape)}, but must be one float")
    elif not tensor.is_float:
        wanted = "U8, BF16, F16 or F32" if is_projection(weight) else "BF16, F16 or F32"
        raise tensor.error(f"is of type {tensor.dtype}, but must be {wanted}")
    if tensor.shape != shape:
        raise tensor.error(f"has shape {list(tensor.shape)}, but {CONFIG} calls for {list(shape)}")


def _required(stored: Mapping[str, StoredTensor], folder: Path, name: str) -> StoredTensor:
    if name not in stored:
        raise BitgraphError(f"{folder}: the tensor {name!r} is missing; copy the whole folder")
    return stored[name]


def _check_unexpected(stored: Mapping[str, StoredTensor], config: BitNetConfig) -> None:
    expected = set(_expected(config))
    for name, tensor in stored.items():
        if name not in expected:
            raise tensor.error(
                f"of shape {list(tensor.shape)} is not part of a BitNet model; this kind of model "
                "is not supported"
            )


def _expected(config: BitNetConfig) -> Iterator[str]:
    """Names that a folder may have; a tied output matrix may be stored once more."""
    for weight in weight_shapes(config):
        yield _name(weight)
        if is_projection(weight):
            yield _scale_name(weight)
    yield "lm_head.weight"
