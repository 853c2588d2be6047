"""The tensors of a Hugging Face folder: one safetensors file, or several that an index names.

The safetensors library checks every header against its file; tensors are then views of the mapped
files. Layout: https://huggingface.co/docs/safetensors
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors

from ..graph.errors import BitgraphError
from ..graph.tensors import Array, Bytes
from .files import read_json_object

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

_HALVES: Final = np.dtype("<u2")
_FLOATS: Final[dict[str, np.dtype[Any]]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """One tensor as it lies in a file.

    Attributes:
        path: the file.
        name: the tensor's name there.
        dtype: as safetensors spells it: "F32", "BF16", "U8", ...
        shape: in NumPy order.
        data: its bytes, a view of the file.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Bytes

    @property
    def is_float(self) -> bool:
        """Whether `floats` can give its values."""
        return self.dtype in ("F32", "F16", "BF16")

    def error(self, problem: str) -> BitgraphError:
        """An error that names the file and the tensor."""
        return BitgraphError(f"{self.path}: tensor {self.name!r} {problem}")

    def floats(self) -> Array:
        """Its values: views where NumPy knows the type, BF16 widened to float32."""
        if self.dtype == "BF16":  # the upper half of a float32
            wide = self.data.view(_HALVES).astype(np.uint32) << np.uint32(16)
            return wide.view(np.float32).reshape(self.shape)
        return self.data.view(_FLOATS[self.dtype]).reshape(self.shape)


def open_shards(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a folder by name.

    Raises:
        BitgraphError: a file is missing or damaged, or the index and the files disagree.
    """
    if not (folder / INDEX).exists():
        return _open_file(folder / SINGLE)
    shard_of = _read_index(folder / INDEX)
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(shard_of.values())):
        for name, tensor in _open_file(folder / shard).items():
            if name in tensors:
                raise tensor.error(f"lies in {tensors[name].path.name} too; fetch the folder again")
            tensors[name] = tensor
    for name, shard in shard_of.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise BitgraphError(
                f"{folder / INDEX} says that tensor {name!r} is in {shard}, where it is not; "
                "fetch the folder again"
            )
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    """Names of the files by the tensors they hold."""
    shard_of = read_json_object(path).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise BitgraphError(f"{path} has no weight_map, which names the files; fetch it again")
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise BitgraphError(
                f"{path}: the file of tensor {name!r} is {shard!r}, not a name in the folder"
            )
    return shard_of


def _open_file(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise BitgraphError(f"{path} is missing; copy the whole folder of the model")
    try:
        with safetensors.safe_open(path, "np"):  # checks types, shapes, offsets and the file's size
            pass
        data = np.memmap(path, np.uint8, "r")
    except (safetensors.SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise BitgraphError(f"{path} could not be read ({reason}); fetch it again") from None
    return {name: _stored(path, name, entry, data) for name, entry in _header(data).items()}


def _header(data: Bytes) -> dict[str, Any]:
    """Layout: u64 length, then JSON with dtype, shape and data_offsets of each tensor."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length].tobytes())
    return {name: {**e, "base": 8 + length} for name, e in header.items() if name != "__metadata__"}


def _stored(path: Path, name: str, entry: dict[str, Any], data: Bytes) -> StoredTensor:
    begin, end = (entry["base"] + offset for offset in entry["data_offsets"])
    view = np.asarray(data[begin:end])
    return StoredTensor(path, name, entry["dtype"], tuple(entry["shape"]), view)
