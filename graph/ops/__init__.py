"""The ops: one record each, grouped by family."""

from collections.abc import Mapping
from functools import lru_cache

from ..ir import Attr
from ..types import GraphError, TensorType
from . import (
    attention,
    dropout,
    elementwise,
    embedding,
    fused,
    linear,
    loss,
    norm,
    optimizer,
    sampling,
)
from .record import OpDef

FAMILIES = {
    "elementwise": elementwise.OPS,
    "norm": norm.OPS,
    "dropout": dropout.OPS,
    "linear": linear.OPS,
    "attention": attention.OPS,
    "embedding": embedding.OPS,
    "loss": loss.OPS,
    "optimizer": optimizer.OPS,
    "sampling": sampling.OPS,
    "fused": fused.OPS,
}

OPS: dict[str, OpDef] = {op.name: op for family in FAMILIES.values() for op in family}


def op_def(name: str) -> OpDef:
    """The record of an op.

    Raises:
        GraphError: there is no such op.
    """
    if name not in OPS:
        raise GraphError(f"there is no op named '{name}'")
    return OPS[name]


def infer_types(
    name: str, inputs: tuple[TensorType, ...], attrs: Mapping[str, Attr]
) -> tuple[TensorType, ...]:
    """Result types of an application, with operands and attributes checked.

    Raises:
        GraphError: they do not fit the op.
    """
    return _infer(name, inputs, tuple((key, type(value), value) for key, value in attrs.items()))


@lru_cache(maxsize=8192)
def _infer(
    name: str, inputs: tuple[TensorType, ...], typed: tuple[tuple[str, type, Attr], ...]
) -> tuple[TensorType, ...]:
    """See `infer_types`; kept, because the layers of a model are alike.

    Attributes come with their types, which tell 1 from True.
    """
    attrs = {key: value for key, _, value in typed}
    op = op_def(name)
    if not op.is_variadic and len(inputs) != len(op.operands):
        wanted = f"{len(op.operands)} operands ({', '.join(op.operands)})"
        raise GraphError(f"{name} takes {wanted}, got {len(inputs)}")
    if set(attrs) != set(op.attributes):
        wanted = ", ".join(sorted(op.attributes)) or "none"
        given = ", ".join(sorted(attrs)) or "none"
        raise GraphError(f"{name} takes the attributes {wanted}; given: {given}")
    for key, kind in op.attributes.items():
        wanted_type = tuple if kind == tuple[int, ...] else kind
        if type(attrs[key]) is not wanted_type:
            raise GraphError(f"{name}: attribute {key} is {attrs[key]!r}, not of type {kind}")
    try:
        result = op.infer(*inputs, **attrs)
    except GraphError as error:
        raise GraphError(f"{name}({', '.join(map(str, inputs))}): {error}") from None
    return result if isinstance(result, tuple) else (result,)
