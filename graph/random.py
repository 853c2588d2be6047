"""Counter-based random numbers: the same bits on every backend, whatever the order.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .tensors import Array

Words: TypeAlias = npt.NDArray[np.uint32]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)


def philox(counter: tuple[Array | int, Array | int, Array | int, Array | int], key: int) -> Words:
    """Four random words for each counter.

    Args:
        counter: four words, broadcast against each other.
        key: the stream, 64 bits.

    Returns:
        uint32 [4, ...] with the counters' shape.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, dtype=np.uint64) for c in counter))
    for round_ in range(_ROUNDS):
        k0 = np.uint64(((key & 0xFFFFFFFF) + round_ * _WEYL[0]) & 0xFFFFFFFF)
        k1 = np.uint64(((key >> 32) + round_ * _WEYL[1]) & 0xFFFFFFFF)
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        high0, high1 = p0 >> np.uint64(32), p1 >> np.uint64(32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, p1 & _LOW, high0 ^ c3 ^ k1, p0 & _LOW
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def unit_interval(words: Words) -> npt.NDArray[np.float32]:
    """Floats in (0, 1) from the top 23 bits of each word, centred so that 0 and 1 never occur."""
    scaled = (words >> np.uint32(9)).astype(np.float32) + np.float32(0.5)
    result: npt.NDArray[np.float32] = scaled * np.float32(2.0**-23)
    return result
