"""Tensor types: an element type and a static shape."""

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np

from .errors import BitgraphError
from .tensors import packed_bytes


class GraphError(BitgraphError):
    """A graph, or the text of one, that does not hold together."""


class DType(StrEnum):
    """Element types.

    T2 is a ternary matrix: 2-bit codes with one scale for the whole tensor. Q8 is a matrix of int8
    codes with one scale for each row. Their host values are `Ternary` and `Quantized`.
    """

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    I32 = "i32"
    U32 = "u32"
    T2 = "t2"
    Q8 = "q8"

    @property
    def is_float(self) -> bool:
        """Whether elements are plain floating-point numbers."""
        return self in (DType.F64, DType.F32, DType.F16)

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy element type of a plain tensor.

        Raises:
            GraphError: T2 and Q8 have none.
        """
        if self not in _NUMPY:
            raise GraphError(f"{self} is a packed type and has no NumPy element type")
        return _NUMPY[self]


_NUMPY: dict[DType, np.dtype[np.generic]] = {
    DType.F64: np.dtype(np.float64),
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.I32: np.dtype(np.int32),
    DType.U32: np.dtype(np.uint32),
}


def q8_stride(columns: int) -> int:
    """Bytes from one row of int8 codes to the next on a device: whole 32-bit words."""
    return -(-columns // 4) * 4


_TYPE = re.compile(r"(\w+)\[((?:[0-9]{1,15}(?:,[0-9]{1,15})*)?)\]")


@dataclass(frozen=True)
class TensorType:
    """An element type and a shape; `str()` gives the text form, as in ``f32[4,16]``."""

    dtype: DType
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a value of this type on a device.

        T2: the packed codes, then the scale. Q8: the codes, each row padded to a multiple of 4
        bytes, then the scales of all rows.
        """
        if self.dtype is DType.T2:
            return packed_bytes(self.size) + 4
        if self.dtype is DType.Q8:
            rows, columns = self.shape
            return rows * (q8_stride(columns) + 4)
        return self.size * self.dtype.numpy.itemsize

    def with_shape(self, shape: tuple[int, ...]) -> "TensorType":
        """The same element type with another shape."""
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> "TensorType":
        """The same shape with another element type."""
        return TensorType(dtype, self.shape)


@lru_cache(maxsize=4096)
def parse_type(text: str) -> TensorType:
    """Inverse of `str(TensorType)`.

    Raises:
        GraphError: the text is not a type.
    """
    match = _TYPE.fullmatch(text)
    if match is None or match[1] not in set(DType):
        raise GraphError(f"'{text}' is not a tensor type; write one as f32[4,16]")
    shape = tuple(int(size) for size in match[2].split(",")) if match[2] else ()
    return TensorType(DType(match[1]), shape)


def tensor(dtype: str, *shape: int) -> TensorType:
    """Shorthand: ``tensor("f32", 4, 16)``."""
    return TensorType(DType(dtype), shape)
