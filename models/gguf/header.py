"""Parsing a GGUF header: every field is checked before anything depends on it.

Layout: magic, u32 version, u64 tensor count, u64 key count, the key/value pairs, the tensor
records (name, dimensions, type, offset), padding, tensor data.
"""

import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph.errors import BitgraphError
from .types import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_KEY_BYTES,
    MAX_NAME_BYTES,
    NUMBER_DTYPES,
    OTHER_TYPES,
    VERSIONS,
    GgmlType,
    MetadataValue,
    ValueType,
)

_SMALLEST_PAIR = 13  # u64 key length, u32 type, one byte of value
_SMALLEST_RECORD = 32  # u64 name length, u32 dimensions, one u64, u32 type, u64 offset
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in the file.

    Attributes:
        name: the tensor's name in the file.
        type: how its numbers are stored.
        shape: in NumPy order, [out, in] for a matrix (the file lists `in` first).
        offset: its first byte, counted from the start of the file.
        nbytes: its size in the file.
    """

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its tensor data."""

    metadata: dict[str, MetadataValue]
    tensors: dict[str, TensorInfo]


class _Cursor:
    """Reads one field after another, each checked against the end of the file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.position = 0

    def error(self, message: str) -> BitgraphError:
        return BitgraphError(f"{self.path}: {message}")

    def truncated(self, field: str) -> BitgraphError:
        return self.error(
            f"the file ends inside {field} (it has {len(self.data)} bytes); it is damaged or "
            "incomplete, fetch it again"
        )

    def need(self, count: int, field: str) -> None:
        if count > len(self.data) - self.position:
            raise self.truncated(field)

    def numbers(self, dtype: npt.DTypeLike, count: int, field: str) -> npt.NDArray[Any]:
        size = np.dtype(dtype).itemsize * count
        self.need(size, field)
        values = np.frombuffer(self.data, dtype, count, self.position).copy()
        self.position += size
        return values

    def unsigned(self, bits: int, field: str) -> int:
        return int.from_bytes(self.raw(bits // 8, field), "little")

    def raw(self, count: int, field: str) -> bytes:
        self.need(count, field)
        start, self.position = self.position, self.position + count
        return self.data[start : self.position]

    def string(self, field: str, limit: int | None = None) -> str:
        length = self.unsigned(64, f"the length of {field}")
        if limit is not None and not 0 < length <= limit:
            raise self.error(f"{field} has {length} bytes, not 1 to {limit}; the file is damaged")
        try:
            return self.raw(length, field).decode()
        except UnicodeDecodeError:
            raise self.error(f"{field} is not UTF-8 text; the file is damaged") from None

    def strings(self, count: int, field: str) -> list[str]:
        """As `string`, fast: a model has 400,000 tokens and merges."""
        self.need(8 * count, field)
        data, position, end = self.data, self.position, len(self.data)
        unpack = _U64.unpack_from
        result: list[str] = []
        try:
            for _ in range(count):
                start = position + 8
                position = start + unpack(data, position)[0]
                if position > end:
                    raise self.truncated(f"{field}[{len(result)}]")
                result.append(data[start:position].decode())
        except struct.error:
            raise self.truncated(f"{field}[{len(result)}]") from None
        except UnicodeDecodeError:
            where = f"{field}[{len(result)}]"
            raise self.error(f"{where} is not UTF-8 text; the file is damaged") from None
        self.position = position
        return result


def parse_header(data: mmap.mmap, path: Path) -> Header:
    """Parse and check the header of a mapped file.

    Raises:
        BitgraphError: the file is not a sound GGUF file of version 2 or 3.
    """
    cursor = _Cursor(data, path)
    _check_magic(cursor)
    tensor_count = cursor.unsigned(64, "the tensor count")
    pair_count = cursor.unsigned(64, "the metadata count")
    cursor.need(pair_count * _SMALLEST_PAIR, f"the {pair_count} metadata values it announces")
    metadata = _metadata(cursor, pair_count)
    cursor.need(tensor_count * _SMALLEST_RECORD, f"the {tensor_count} tensors it announces")
    records = [_record(cursor) for _ in range(tensor_count)]
    return Header(metadata, _place(cursor, records, _alignment(cursor, metadata)))


def _check_magic(cursor: _Cursor) -> None:
    if cursor.data[: len(MAGIC)] != MAGIC:
        raise cursor.error("this is not a GGUF file (it does not begin with GGUF)")
    cursor.position = len(MAGIC)
    version = cursor.unsigned(32, "the version")
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise cursor.error("the file is big-endian; only little-endian GGUF files are read")
    if version not in VERSIONS:
        raise cursor.error(f"GGUF version {version} is not supported; versions 2 and 3 are")


def _metadata(cursor: _Cursor, count: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for index in range(count):
        key = cursor.string(f"metadata key {index}", MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.error(f"the metadata key {key!r} occurs twice; the file is damaged")
        field = f"metadata value {key!r}"
        metadata[key] = _value(cursor, _value_type(cursor, field), field)
    return metadata


def _value_type(cursor: _Cursor, field: str) -> ValueType:
    number = cursor.unsigned(32, f"the type of {field}")
    try:
        return ValueType(number)
    except ValueError:
        raise cursor.error(f"{field} has the unknown type {number}; the file is damaged") from None


def _value(cursor: _Cursor, kind: ValueType, field: str) -> MetadataValue:
    if kind is ValueType.STRING:
        return cursor.string(field)
    if kind is ValueType.ARRAY:
        return _array(cursor, field)
    number = _numbers(cursor, kind, 1, field)[0]
    # A float32 becomes the shortest decimal that rounds to it: 1e-05, not 9.999999747378752e-06.
    value: MetadataValue = float(str(number)) if kind is ValueType.FLOAT32 else number.item()
    return value


def _array(cursor: _Cursor, field: str) -> MetadataValue:
    kind = _value_type(cursor, f"the items of {field}")
    count = cursor.unsigned(64, f"the length of {field}")
    if kind is ValueType.ARRAY:
        raise cursor.error(f"{field} is an array of arrays, which is not supported")
    if kind is ValueType.STRING:
        return cursor.strings(count, field)
    return _numbers(cursor, kind, count, field)


def _numbers(cursor: _Cursor, kind: ValueType, count: int, field: str) -> npt.NDArray[Any]:
    if kind is not ValueType.BOOL:
        return cursor.numbers(NUMBER_DTYPES[kind], count, field)
    bits = cursor.numbers(np.uint8, count, field)
    if (bits > 1).any():
        raise cursor.error(f"{field} holds a boolean that is not 0 or 1; the file is damaged")
    return bits.astype(np.bool_)


def _record(cursor: _Cursor) -> TensorInfo:
    """One tensor record; its offset counts from the start of the data section."""
    name = cursor.string("a tensor name", MAX_NAME_BYTES)
    field = f"the record of tensor {name!r}"
    dimensions = cursor.unsigned(32, field)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise cursor.error(f"tensor {name!r} has {dimensions} dimensions, not 1 to 4")
    shape = tuple(cursor.unsigned(64, field) for _ in range(dimensions))[::-1]
    if 0 in shape:
        raise cursor.error(f"tensor {name!r} has an empty shape {list(shape)}")
    kind = _tensor_type(cursor, name)
    try:
        nbytes = kind.nbytes(shape)
    except ValueError as error:
        raise cursor.error(f"tensor {name!r} of shape {list(shape)}: {error}") from None
    return TensorInfo(name, kind, shape, cursor.unsigned(64, field), nbytes)


def _tensor_type(cursor: _Cursor, name: str) -> GgmlType:
    number = cursor.unsigned(32, f"the record of tensor {name!r}")
    try:
        return GgmlType(number)
    except ValueError:
        kind = OTHER_TYPES.get(number, str(number))
        read = ", ".join(known.name for known in GgmlType)
        raise cursor.error(
            f"unsupported tensor type {kind} of tensor {name!r}; the types that are read are {read}"
        ) from None


def _alignment(cursor: _Cursor, metadata: dict[str, MetadataValue]) -> int:
    alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
        raise cursor.error(f"{ALIGNMENT_KEY} is {alignment!r}, not a power of two from 8 on")
    return alignment


def _place(cursor: _Cursor, records: list[TensorInfo], alignment: int) -> dict[str, TensorInfo]:
    """Turn offsets into file offsets and check that tensors lie apart, inside the file."""
    start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for record in records:
        if record.name in tensors:
            raise cursor.error(f"tensor {record.name!r} occurs twice; the file is damaged")
        if record.offset % alignment:
            raise cursor.error(
                f"tensor {record.name!r} has offset {record.offset}, not a multiple of {alignment}"
            )
        info = TensorInfo(
            record.name, record.type, record.shape, start + record.offset, record.nbytes
        )
        if info.offset + info.nbytes > len(cursor.data):
            raise cursor.truncated(f"the data of tensor {info.name!r}")
        tensors[info.name] = info
    for first, second in pairwise(sorted(tensors.values(), key=lambda info: info.offset)):
        if first.offset + first.nbytes > second.offset:
            raise cursor.error(
                f"tensors {first.name!r} and {second.name!r} overlap; the file is damaged"
            )
    return tensors
