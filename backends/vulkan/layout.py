"""How values lie in device memory: from host values to bytes and back."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...graph.tensors import HostValue, Quantized, Ternary
from ...graph.types import DType, TensorType, q8_stride

Bytes: TypeAlias = npt.NDArray[np.uint8]


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
    """A host value that shares memory with the bytes of a tensor; writing to it writes to them."""
    if type.dtype is DType.T2:
        scale = float(data[-4:].view(np.float32)[0])
        return Ternary(data[:-4], scale, type.shape)
    if type.dtype is DType.Q8:
        rows, columns = type.shape
        stride = q8_stride(columns)
        codes = data[: rows * stride].view(np.int8).reshape(rows, stride)[:, :columns]
        return Quantized(codes, data[rows * stride :].view(np.float32).reshape(rows, 1))
    return data.view(type.dtype.numpy).reshape(type.shape)


def assign(target: HostValue, value: HostValue) -> None:
    """Copy a value into one that `view` gave.

    Raises:
        ValueError: the shapes differ, or the target is a ternary weight, which nothing writes.
    """
    if isinstance(target, Quantized) and isinstance(value, Quantized):
        target.codes[...], target.scale[...] = value.codes, value.scale
    elif isinstance(target, np.ndarray) and isinstance(value, np.ndarray):
        if target.shape != value.shape:
            raise ValueError(f"a value of shape {value.shape} does not fill {target.shape}")
        target[...] = value
    else:
        raise ValueError("only plain and quantized tensors are written")
