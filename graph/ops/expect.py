"""Conditions on operand types, with the message a user reads when they do not hold."""

from ..types import DType, GraphError, TensorType


def expect(condition: bool, message: str) -> None:
    """Raise a GraphError unless the condition holds."""
    if not condition:
        raise GraphError(message)


def expect_float(type: TensorType, rank: int | None = None) -> None:
    """A plain f32 or f64 tensor, perhaps of a given rank."""
    expect(type.dtype in (DType.F32, DType.F64), f"{type} is not f32 or f64")
    if rank is not None:
        expect(type.rank == rank, f"{type} does not have rank {rank}")


def expect_same(first: TensorType, *others: TensorType) -> None:
    """Equal types."""
    for other in others:
        expect(other == first, f"{other} differs from {first}")


def expect_ids(type: TensorType, *shape: int) -> None:
    """Whole numbers of a given shape."""
    expect(type.dtype is DType.I32, f"{type} is not i32")
    expect(type.shape == shape, f"{type} does not have shape {list(shape)}")


def expect_scalar(type: TensorType, dtype: DType) -> None:
    """A rank-0 tensor of a given element type."""
    expect(type == TensorType(dtype, ()), f"{type} is not {dtype}[]")
