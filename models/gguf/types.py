"""The value and tensor types of a GGUF file, version 2 and 3.

Layout: the GGUF specification in the ggml repository; I2_S: Microsoft's bitnet.cpp.
"""

import math
from enum import IntEnum
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
ALIGNMENT_KEY: Final = "general.alignment"
DEFAULT_ALIGNMENT: Final = 32
MAX_KEY_BYTES: Final = 65535
MAX_NAME_BYTES: Final = 64
MAX_DIMENSIONS: Final = 4

MetadataValue: TypeAlias = bool | int | float | str | list[str] | npt.NDArray[Any]
"""A metadata value; an array of numbers is an ndarray, an array of strings a list."""


class ValueType(IntEnum):
    """Types of metadata values, by their id in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


NUMBER_DTYPES: Final[dict[ValueType, np.dtype[Any]]] = {
    ValueType.UINT8: np.dtype("<u1"),
    ValueType.INT8: np.dtype("<i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}


class GgmlType(IntEnum):
    """Tensor types that are read, by their id in the file."""

    F32 = 0
    F16 = 1
    TQ1_0 = 34
    TQ2_0 = 35
    I2_S = 36

    @property
    def is_ternary(self) -> bool:
        """Whether a tensor of this type loads as a `Ternary`."""
        return self not in (GgmlType.F32, GgmlType.F16)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of `shape` (NumPy order).

        I2_S packs 4 weights a byte over the flat tensor and appends 32 bytes that open with the
        scale; the TQ types store each row in blocks of 256 weights.

        Raises:
            ValueError: the type cannot hold this shape.
        """
        weights, block_bytes = _BLOCKS[self]
        count = math.prod(shape)
        length = count if self is GgmlType.I2_S else shape[-1]
        if length % weights:
            what = "weights" if self is GgmlType.I2_S else "columns"
            raise ValueError(f"{self.name} needs a multiple of {weights} {what}, not {length}")
        return count // weights * block_bytes + (I2_S_TRAILER if self is GgmlType.I2_S else 0)


I2_S_TRAILER: Final = 32
"""Bytes after an I2_S tensor's codes: a float32 scale and 28 that mean nothing."""

_BLOCKS: Final = {
    GgmlType.F32: (1, 4),
    GgmlType.F16: (1, 2),
    GgmlType.TQ1_0: (256, 54),
    GgmlType.TQ2_0: (256, 66),
    GgmlType.I2_S: (128, 32),
}

OTHER_TYPES: Final = {
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    37: "I8_S",
    38: "TL1",
    39: "TL2 (in mainline llama.cpp MXFP4)",
    40: "NVFP4",
    41: "Q1_0",
}
"""Names of tensor types that are refused; 37 to 39 as Microsoft's files use them."""
