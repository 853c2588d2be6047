"""The types of host values."""

from .ir import Node, Value
from .ops.fused import FUSED, expanded
from .tensors import HostValue, Quantized, Ternary
from .types import DType, GraphError, TensorType

_PLAIN = (DType.F64, DType.F32, DType.F16, DType.I32, DType.U32)
_DTYPES = {dtype.numpy: dtype for dtype in _PLAIN}


def type_of(value: HostValue) -> TensorType:
    """The type a host value has.

    Raises:
        GraphError: an array whose elements no tensor can have.
    """
    if isinstance(value, Ternary):
        return TensorType(DType.T2, value.shape)
    if isinstance(value, Quantized):
        return TensorType(DType.Q8, value.shape)
    if value.dtype not in _DTYPES:
        raise GraphError(f"an array of {value.dtype} is not a tensor")
    return TensorType(_DTYPES[value.dtype], value.shape)


def check_type(name: str, type: TensorType, value: HostValue) -> None:
    """Raise a GraphError unless a host value has the type."""
    try:
        given = type_of(value)
    except GraphError as error:
        raise GraphError(f"%{name} is not {type}: {error}") from None
    if given != type:
        raise GraphError(f"%{name} is given as {given}, not {type}")


def describe_result(node: Node, value: Value) -> str:
    """A result and where it comes from, for people: ``%y: f32[4,16] (mul in layers.0/mlp)``."""
    if node.op == FUSED:
        node = next(part for part in expanded(node) if value in part.outputs)
    place = f" in {node.scope}" if node.scope else ""
    return f"{value}: {value.type} ({node.op}{place})"
