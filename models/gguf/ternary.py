"""Decoding the ternary tensor types: I2_S as views of the file, TQ1_0 and TQ2_0 by repacking."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from ...graph.tensors import Bytes, Ternary, pack_ternary
from .types import GgmlType

_SCAN_BYTES: Final = 1 << 18
_LOW_BITS: Final = np.uint64(0x5555555555555555)
_BLOCK: Final = 256

Scales = npt.NDArray[np.float32]
Trits = npt.NDArray[np.uint8]


def has_code_three(packed: Bytes) -> bool:
    """Whether 2-bit codes (a multiple of 8 bytes) hold a 3, which stands for no weight.

    One pass over the bytes in cache-sized pieces, about 0.2 s for the 521 MB of a 2B model.
    """
    words = packed.view(np.uint64)
    step = _SCAN_BYTES // words.itemsize
    pieces = (words[start : start + step] for start in range(0, words.size, step))
    return any((piece & (piece >> np.uint64(1)) & _LOW_BITS).any() for piece in pieces)


def decode_i2_s(data: Bytes, shape: tuple[int, ...]) -> Ternary:
    """An I2_S tensor; the codes stay a view of `data`.

    Layout: `pack_ternary`'s codes, a float32 scale, 28 bytes of no meaning (in Microsoft's
    files they are leftover memory).

    Raises:
        ValueError: a code is 3, or the scale is not a positive number.
    """
    count = math.prod(shape) // 4
    packed = data[:count]
    if has_code_three(packed):
        raise ValueError("a 2-bit code is 3, which stands for no weight")
    return Ternary(packed, _positive(data[count : count + 4].view("<f4")[0]), shape)


def decode_tq1_0(data: Bytes, shape: tuple[int, ...]) -> Ternary:
    """A TQ1_0 tensor, repacked.

    Layout of a block of 256 weights in 54 bytes: 48 bytes of five trits, 4 bytes of four, a
    float16 scale. A byte is ceil(v * 256 / 243) of the number v its trits spell, the first
    weight in the highest digit, so multiplying by 3 (modulo 256) brings up the next one. Bytes
    0 to 31 hold weights m, 32 + m, ..., 128 + m; the next 16 hold 160 + m, 176 + m, ...,
    224 + m; the last 4 hold 240 + m, ..., 252 + m.

    Raises:
        ValueError: blocks have different scales, or one that is not a positive number.
    """
    blocks = data.reshape(-1, 54)
    parts = [_trits(blocks[:, :32], 5), _trits(blocks[:, 32:48], 5), _trits(blocks[:, 48:52], 4)]
    return _from_blocks(np.concatenate(parts, axis=1), blocks[:, 52:], shape)


def decode_tq2_0(data: Bytes, shape: tuple[int, ...]) -> Ternary:
    """A TQ2_0 tensor, repacked.

    Layout of a block of 256 weights in 66 bytes: two halves of 32 bytes and a float16 scale;
    byte m of a half holds its weights m, 32 + m, 64 + m and 96 + m, the first in the low bits.

    Raises:
        ValueError: as `decode_tq1_0`, or a 2-bit code is 3.
    """
    blocks = data.reshape(-1, 66)
    halves = blocks[:, :64].reshape(-1, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    codes = (halves >> shifts & np.uint8(3)).reshape(-1, _BLOCK)
    if (codes == 3).any():
        raise ValueError("a 2-bit code is 3, which stands for no weight")
    return _from_blocks(codes, blocks[:, 64:], shape)


DECODERS: Final = {
    GgmlType.I2_S: decode_i2_s,
    GgmlType.TQ1_0: decode_tq1_0,
    GgmlType.TQ2_0: decode_tq2_0,
}


def _trits(column: Bytes, count: int) -> Trits:
    """[blocks, bytes] to [blocks, count * bytes] of codes 0, 1, 2, digit by digit."""
    powers = np.array([3**digit for digit in range(count)], dtype=np.uint8)[:, None]
    rest = (column[:, None, :] * powers).astype(np.uint16)
    codes: Trits = (rest * 3 >> 8).astype(np.uint8).reshape(len(column), -1)
    return codes


def _from_blocks(codes: Trits, scales: Bytes, shape: tuple[int, ...]) -> Ternary:
    """One `Ternary` from blocks [n, 256] of codes 0, 1, 2 and their float16 scales [n, 2]."""
    block_scales = np.ascontiguousarray(scales).view("<f2").reshape(-1).astype(np.float32)
    weights = codes.astype(np.int8) - np.int8(1)
    weights[block_scales == 0] = 0
    used = np.unique(block_scales[weights.any(axis=1)])
    if used.size > 1:
        raise ValueError(
            f"its blocks have {used.size} different scales ({used[0]:g} to {used[-1]:g}), but "
            "a BitNet weight has one"
        )
    scale = _positive(used[0]) if used.size else 1.0
    return Ternary(pack_ternary(weights), scale, shape)


def _positive(scale: np.float32) -> float:
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"its scale is {scale:g}, not a positive number")
    return float(scale)
