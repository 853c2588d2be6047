"""Random operands for op cases."""

from collections.abc import Callable

import numpy as np

from ..tensors import Array, HostValue, Quantized, Ternary
from ..types import DType, TensorType, tensor
from .record import Draw, Operand


def normal(rng: np.random.Generator, type: TensorType) -> HostValue:
    """Standard normal floats, or random codes of a packed type."""
    if type.dtype is DType.T2:
        return Ternary.pack(rng.integers(-1, 2, type.shape), float(rng.uniform(0.5, 2.0)))
    if type.dtype is DType.Q8:
        codes = rng.integers(-128, 128, type.shape, dtype=np.int8)
        scale = rng.uniform(5, 50, (*type.shape[:-1], 1)).astype(np.float32)
        return Quantized(codes, scale)
    return rng.standard_normal(type.shape).astype(type.dtype.numpy)


def scaled(deviation: float) -> Draw:
    """Normal floats of a given standard deviation."""
    return lambda rng, type: (deviation * rng.standard_normal(type.shape)).astype(type.dtype.numpy)


def away_from_zero(rng: np.random.Generator, type: TensorType) -> Array:
    """Floats of either sign with magnitude 0.1 to 2, clear of kinks at zero."""
    sign = rng.choice([-1.0, 1.0], type.shape)
    return (sign * rng.uniform(0.1, 2.0, type.shape)).astype(type.dtype.numpy)


def uniform(low: float, high: float) -> Draw:
    """Floats from an interval."""
    return lambda rng, type: rng.uniform(low, high, type.shape).astype(type.dtype.numpy)


def integers(low: int, high: int) -> Draw:
    """Whole numbers low <= k < high."""
    return lambda rng, type: rng.integers(low, high, type.shape).astype(type.dtype.numpy)


def distinct(high: int) -> Draw:
    """Different whole numbers below `high`."""
    return lambda rng, type: rng.permutation(high)[: type.size].astype(type.dtype.numpy)


def constant(make: Callable[[], Array]) -> Draw:
    """Always the same array."""
    return lambda rng, type: make().astype(type.dtype.numpy)


def operand(dtype: str, *shape: int, draw: Draw = normal) -> Operand:
    """Shorthand: ``operand("f32", 4, 16)``."""
    return Operand(tensor(dtype, *shape), draw)
