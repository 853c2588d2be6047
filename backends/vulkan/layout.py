"""How values lie in device memory: from host values to bytes and back."""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...graph.tensors import HostValue, Quantized, Ternary
from ...graph.types import DType, TensorType, q8_stride

Bytes: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _TernaryView(Ternary):
    """A ternary matrix in device bytes: its codes are a view of them, its scale a copy."""

    data: Bytes = field(default_factory=lambda: np.zeros(0, np.uint8), repr=False)


def to_bytes(value: HostValue) -> Bytes:
    """The device bytes of a host value, in the layout of `TensorType.nbytes`."""
    if isinstance(value, Ternary):
        scale = np.array([value.scale], np.float32)
        return np.concatenate([np.asarray(value.packed), scale.view(np.uint8)])
    if isinstance(value, Quantized):
        rows, columns = value.codes.shape
        codes = np.zeros((rows, q8_stride(columns)), np.int8)
        codes[:, :columns] = value.codes
        scale = np.ascontiguousarray(value.scale, np.float32)
        return np.concatenate([codes.view(np.uint8).reshape(-1), scale.view(np.uint8).reshape(-1)])
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def view(data: Bytes, type: TensorType) -> HostValue:
    """A host value that shares memory with the bytes of a tensor; `assign` writes to them."""
    if type.dtype is DType.T2:
        scale = float(data[-4:].view(np.float32)[0])
        return _TernaryView(data[:-4], scale, type.shape, data=data)
    if type.dtype is DType.Q8:
        rows, columns = type.shape
        stride = q8_stride(columns)
        codes = data[: rows * stride].view(np.int8).reshape(rows, stride)[:, :columns]
        return Quantized(codes, data[rows * stride :].view(np.float32).reshape(rows, 1))
    return data.view(type.dtype.numpy).reshape(type.shape)


def assign(target: HostValue, value: HostValue) -> None:
    """Copy a value into one that `view` gave.

    Raises:
        ValueError: the shapes differ, or the kinds of values.
    """
    if isinstance(target, Quantized) and isinstance(value, Quantized):
        target.codes[...], target.scale[...] = value.codes, value.scale
    elif isinstance(target, _TernaryView) and isinstance(value, Ternary):
        if target.shape != value.shape:
            raise ValueError(f"a value of shape {value.shape} does not fill {target.shape}")
        target.data[...] = to_bytes(value)
    elif isinstance(target, np.ndarray) and isinstance(value, np.ndarray):
        if target.shape != value.shape:
            raise ValueError(f"a value of shape {value.shape} does not fill {target.shape}")
        target[...] = value
    else:
        raise ValueError(f"{type(value).__name__} does not fill {type(target).__name__}")
