"""Opening GGUF files: the header is parsed and checked at once, tensor data stays on disk."""

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...graph.errors import BitgraphError
from ...graph.tensors import Bytes, HostValue
from .header import TensorInfo, parse_header
from .ternary import DECODERS
from .types import GgmlType, MetadataValue


@dataclass(frozen=True, eq=False)
class GgufFile:
    """A GGUF file mapped into memory.

    Attributes:
        path: where it lies.
        metadata: the key/value pairs, in file order.
        tensors: the tensor records, in file order.
    """

    path: Path
    metadata: dict[str, MetadataValue]
    tensors: dict[str, TensorInfo]
    _data: Bytes

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._data.size

    def load(self, name: str) -> HostValue:
        """A tensor's value: float32 or float16 array, or `Ternary`.

        Arrays and I2_S codes are read-only views of the file; TQ1_0 and TQ2_0 are repacked. All
        codes of a ternary tensor are looked at, since they are about to be used anyway.

        Raises:
            BitgraphError: there is no such tensor, or it holds codes or a scale that stand for
                no weights.
        """
        info = self.tensors.get(name)
        if info is None:
            raise BitgraphError(f"{self.path}: there is no tensor {name!r}")
        data = self._data[info.offset : info.offset + info.nbytes]
        if not info.type.is_ternary:
            dtype = np.float32 if info.type is GgmlType.F32 else np.float16
            return data.view(dtype).reshape(info.shape)
        try:
            return DECODERS[info.type](data, info.shape)
        except ValueError as error:
            raise BitgraphError(
                f"{self.path}: tensor {name!r} of type {info.type.name}: {error}"
            ) from None


def read_gguf(path: Path) -> GgufFile:
    """Open a little-endian GGUF file of version 2 or 3.

    Raises:
        BitgraphError: the file cannot be opened, is damaged (any header field that contradicts
            the format or the file's size), or holds a tensor type that is not supported.
    """
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "does not exist"
        what = "is a folder" if path.is_dir() else what
        raise BitgraphError(f"{path} {what}; give the path of a .gguf file")
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise BitgraphError(f"{path}: this is not a GGUF file (it is empty)")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise BitgraphError(f"{path} could not be opened ({error.strerror or error})") from error
    header = parse_header(mapped, path)
    return GgufFile(path, header.metadata, header.tensors, np.frombuffer(mapped, np.uint8))
