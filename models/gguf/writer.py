"""Writing GGUF version 3, one tensor at a time: a model larger than memory can be written."""

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...graph.errors import BitgraphError
from ...graph.tensors import Array, HostValue, Quantized, Ternary
from ..files import atomic_write
from .types import (
    DEFAULT_ALIGNMENT,
    I2_S_TRAILER,
    MAGIC,
    NUMBER_DTYPES,
    GgmlType,
    MetadataValue,
    ValueType,
)

_FLOAT_DTYPES: Final = {GgmlType.F32: np.dtype("<f4"), GgmlType.F16: np.dtype("<f2")}
_KINDS: Final = {dtype: kind for kind, dtype in NUMBER_DTYPES.items()}


@dataclass(frozen=True)
class TensorSource:
    """A tensor to write.

    Attributes:
        name: its name in the file.
        type: F32, F16 or I2_S.
        shape: in NumPy order.
        load: makes the value when its turn comes; it is not kept.
    """

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    load: Callable[[], HostValue]

    @classmethod
    def of(cls, name: str, value: Array | Ternary) -> "TensorSource":
        """A value that is at hand: float16 as F16, a `Ternary` as I2_S, the rest as F32."""
        if isinstance(value, Ternary):
            kind = GgmlType.I2_S
        else:
            kind = GgmlType.F16 if value.dtype == np.float16 else GgmlType.F32
        return cls(name, kind, value.shape, lambda: value)

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding.

        Raises:
            BitgraphError: the type cannot hold this shape.
        """
        try:
            return self.type.nbytes(self.shape)
        except ValueError as error:
            raise BitgraphError(
                f"tensor {self.name!r} of shape {list(self.shape)} cannot be written: {error}"
            ) from None


def write_gguf(
    path: Path, metadata: Mapping[str, MetadataValue], tensors: Sequence[TensorSource]
) -> None:
    """Write a GGUF file of version 3, complete or not at all.

    A Python int is stored as uint32, a float as float32, an ndarray by its dtype.

    Raises:
        BitgraphError: the file cannot be written, or a value is not what its source announces.
    """
    header = _header(metadata, tensors)
    with atomic_write(path) as file:
        file.write(header)
        for tensor in tensors:
            for chunk in _encoded(tensor):
                file.write(chunk)
            file.write(bytes(_padding(tensor.nbytes)))


def gguf_size(metadata: Mapping[str, MetadataValue], tensors: Sequence[TensorSource]) -> int:
    """Bytes of the file that `write_gguf` would write; no tensor is loaded.

    Raises:
        BitgraphError: the file cannot be written.
    """
    return len(_header(metadata, tensors)) + sum(_padded(tensor.nbytes) for tensor in tensors)


def _header(metadata: Mapping[str, MetadataValue], tensors: Sequence[TensorSource]) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(key, value)]
    offset = 0
    for tensor in tensors:
        dimensions = tensor.shape[::-1]
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions))
        parts.append(struct.pack("<IQ", tensor.type, offset))
        offset += _padded(tensor.nbytes)
    header = b"".join(parts)
    return header + bytes(_padding(len(header)))


def _padding(size: int) -> int:
    return -size % DEFAULT_ALIGNMENT


def _padded(size: int) -> int:
    return size + _padding(size)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(key: str, value: MetadataValue) -> bytes:
    """A value with its type before it; bool is tested first, since it is an int."""
    if isinstance(value, bool):
        return struct.pack("<I?", ValueType.BOOL, value)
    if isinstance(value, int):
        if not 0 <= value < 1 << 32:
            raise BitgraphError(f"metadata {key} is {value}, which does not fit in 32 bits")
        return struct.pack("<II", ValueType.UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", ValueType.FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", ValueType.STRING) + _string(value)
    if isinstance(value, list):
        head = struct.pack("<IIQ", ValueType.ARRAY, ValueType.STRING, len(value))
        return head + b"".join(map(_string, value))
    return _array(value)


def _array(values: npt.NDArray[Any]) -> bytes:
    kind = ValueType.BOOL if values.dtype == np.bool_ else _KINDS[values.dtype]
    return struct.pack("<IIQ", ValueType.ARRAY, kind, values.size) + values.tobytes()


def _encoded(tensor: TensorSource) -> Iterator[memoryview | bytes]:
    """The tensor's bytes; the 28 after an I2_S scale are zeros."""
    value = tensor.load()
    if isinstance(value, Quantized) or value.shape != tensor.shape:
        raise _mismatch(tensor, f"has shape {list(value.shape)}")
    if isinstance(value, Ternary):
        if tensor.type is not GgmlType.I2_S or value.packed.size * 4 != math.prod(tensor.shape):
            raise _mismatch(tensor, "is ternary")
        yield value.packed.data
        yield struct.pack("<f", value.scale).ljust(I2_S_TRAILER, b"\0")
    elif value.dtype != _FLOAT_DTYPES.get(tensor.type):
        raise _mismatch(tensor, f"is {value.dtype}")
    else:
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data


def _mismatch(tensor: TensorSource, what: str) -> BitgraphError:
    return BitgraphError(
        f"tensor {tensor.name!r} cannot be written as {tensor.type.name} of shape "
        f"{list(tensor.shape)}: its value {what}"
    )
