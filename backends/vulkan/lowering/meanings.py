"""What kernels mean, for the schedule runner: mostly, one op's evaluation."""

from collections.abc import Mapping

import numpy as np

from ....graph.ops import op_def
from ....graph.tensors import Array, HostValue
from ..kernels import kernel
from ..layout import assign
from ..schedule import Access
from .calls import Meaning


def of_op(
    op: str,
    name: str,
    attrs: Mapping[str, str] | None = None,
    fixed: Mapping[str, object] | None = None,
) -> tuple[str, Meaning]:
    """A kernel that computes one op: its inputs are the op's operands, in order.

    Args:
        op: name of the op.
        name: of the kernel.
        attrs: attributes of the op and the specialization constants that hold them.
        fixed: attributes of the op that the kernel has built in.
    """

    def meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        record = op_def(op)
        parameters = kernel(name).parameters
        reads = [operands[p.name] for p in parameters if p.access is not Access.WRITE]
        writes = [operands[p.name] for p in parameters if p.access is not Access.READ]
        given: dict[str, object] = dict(fixed or {})
        for attribute, constant in (attrs or {}).items():
            kind = record.attributes[attribute]
            assert isinstance(kind, type)
            given[attribute] = kind(constants[constant])
        results = record.eval(*reads, **given)
        results = results if isinstance(results, tuple) else (results,)
        for target, result in zip(writes, results, strict=True):
            assign(target, result)

    return name, meaning


def arrays(operands: Mapping[str, HostValue], *names: str) -> tuple[Array, ...]:
    """Some of a kernel's operands, which are plain tensors."""
    values = [operands[name] for name in names]
    assert all(isinstance(value, np.ndarray) for value in values)
    return tuple(value for value in values if isinstance(value, np.ndarray))


def row_powers(x: Array) -> Array:
    """The power of two below the largest magnitude of each row, or equal to it."""
    exponents = np.max(np.abs(x), axis=1).view(np.uint32) >> 23
    powers: Array = (np.clip(exponents, 1, 253) << 23).view(np.float32)
    return powers
