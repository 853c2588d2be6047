"""Host values of the two packed tensor types: ternary weights (t2) and int8 activations (q8)."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Codes: TypeAlias = npt.NDArray[np.int8]
Bytes: TypeAlias = npt.NDArray[np.uint8]

GROUP = 128
"""Weights a packing group holds; a group takes GROUP / 4 bytes."""

_QUARTER = GROUP // 4
_SHIFTS = np.array([6, 4, 2, 0], dtype=np.uint8)


def packed_bytes(count: int) -> int:
    """Bytes that the 2-bit codes of `count` weights take, the last group padded."""
    return -(-count // GROUP) * _QUARTER


def pack_ternary(codes: npt.NDArray[Any]) -> Bytes:
    """Pack weights -1, 0, +1 of any shape into 2-bit codes 0, 1, 2.

    The layout is that of I2_S as bitnet.cpp's x86 quantizer writes it: flat row-major order in
    groups of 128 weights; byte p of a group's 32 holds weights p, 32 + p, 64 + p and 96 + p, the
    first in the top bits. A last group that is not full is padded with zero weights.
    """
    flat = np.asarray(codes, dtype=np.int8).reshape(-1)
    padded = np.zeros(packed_bytes(flat.size) * 4, dtype=np.int8)
    padded[: flat.size] = flat
    quarters = (padded + 1).astype(np.uint8).reshape(-1, 4, _QUARTER)
    packed: Bytes = np.bitwise_or.reduce(quarters << _SHIFTS[:, None], axis=1).reshape(-1)
    return packed


def _decode_table() -> npt.NDArray[np.uint32]:
    """Four int8 weights, as the bytes of one little-endian word, for each packed byte."""
    codes = (np.arange(256, dtype=np.uint8)[:, None] >> _SHIFTS) & 3
    return np.ascontiguousarray(codes.astype(np.int8) - 1).view("<u4").reshape(256)


_DECODE = _decode_table()


def unpack_ternary(packed: Bytes, shape: tuple[int, ...]) -> Codes:
    """Inverse of `pack_ternary`: int8 weights -1, 0, +1 of the given shape (code 3 gives 2)."""
    interleaved = _DECODE[packed].view(np.int8).reshape(-1, _QUARTER, 4)
    flat = np.ascontiguousarray(interleaved.transpose(0, 2, 1)).reshape(-1)
    count = int(np.prod(shape, dtype=np.int64))
    return flat[:count].reshape(shape)


@dataclass(frozen=True, eq=False)
class Ternary:
    """A ternary weight matrix: w = code * scale, with code in -1, 0, +1.

    Attributes:
        packed: 2-bit codes in `pack_ternary`'s layout, perhaps a view of a mapped file.
        scale: the one scale of the tensor.
        shape: [out, in].
    """

    packed: Bytes
    scale: float
    shape: tuple[int, ...]
    _dense: dict[np.dtype[Any], Array] = field(default_factory=dict, repr=False)
    _transposed: dict[np.dtype[Any], Array] = field(default_factory=dict, repr=False)

    @classmethod
    def pack(cls, codes: npt.NDArray[Any], scale: float) -> "Ternary":
        """Pack weights -1, 0, +1 with their scale."""
        return cls(pack_ternary(codes), float(scale), codes.shape)

    def codes(self) -> Codes:
        """The weights without their scale, int8 of `shape`."""
        return unpack_ternary(self.packed, self.shape)

    def dense(self, dtype: npt.DTypeLike) -> Array:
        """The codes as floats, without the scale, so that products with integers are exact."""
        kept = self._dense.get(np.dtype(dtype))
        return kept if kept is not None else self.codes().astype(dtype)

    def dense_transposed(self, dtype: npt.DTypeLike) -> Array:
        """The transpose of `dense`: contiguous if it is kept, else a view."""
        kept = self._transposed.get(np.dtype(dtype))
        return kept if kept is not None else self.dense(dtype).T

    def with_dense(self, dtype: npt.DTypeLike) -> "Ternary":
        """The same weight with its floats kept, both ways round, as products want them.

        That takes 32 times the memory of the codes, and saves decoding at each use.
        """
        dense, kind = self.dense(dtype), np.dtype(dtype)
        transposed = np.ascontiguousarray(dense.T)
        return replace(self, _dense={kind: dense}, _transposed={kind: transposed})

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes and the scale."""
        return self.packed.nbytes + 4


@dataclass(frozen=True, eq=False)
class Quantized:
    """Activations quantized per row: x is about codes / scale.

    Attributes:
        codes: int8 [rows, columns].
        scale: float [rows, 1], 127 over the row's absmax.
    """

    codes: Codes
    scale: Array

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the codes."""
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and the scales."""
        return self.codes.nbytes + self.scale.nbytes

    def dense(self, dtype: npt.DTypeLike) -> Array:
        """The values the codes stand for."""
        values: Array = self.codes.astype(dtype) / self.scale.astype(dtype)
        return values


HostValue: TypeAlias = Array | Ternary | Quantized
"""What a graph value is on the host."""
