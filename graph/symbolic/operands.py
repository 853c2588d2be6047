"""The operands of an op's case as symbols, and what to differentiate for."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import sympy

from ..tensors import HostValue, Quantized
from ..types import DType, TensorType
from .arrays import Expr, SymbolArray, SymbolicTernary, as_symbols

Signs: TypeAlias = Mapping[str, int]
"""Which symbols are positive (1) and which negative (-1), by name; the others are just real."""

_NO_BYTES = np.empty(0, dtype=np.uint8)


def variables(name: str, shape: tuple[int, ...], signs: Signs | None = None) -> SymbolArray:
    """Real symbols ``name[i,j]``."""
    array = np.empty(shape, dtype=object)
    for index in np.ndindex(shape):
        array[index] = _symbol(f"{name}[{','.join(map(str, index))}]", signs or {})
    return as_symbols(array)


def symbolic(type: TensorType, of: SymbolArray, drawn: HostValue) -> HostValue:
    """The host value of an operand.

    Args:
        type: of the operand.
        of: its variables: the values that ternary or int8 codes stand for, or the elements of a
            tensor of floats.
        drawn: a value with numbers, taken for whole numbers such as ids.
    """
    if type.dtype is DType.T2:
        scale: Any = _symbol("scale", {})
        return SymbolicTernary(_NO_BYTES, scale, type.shape, symbols=of / scale)
    if type.dtype is DType.Q8:
        scales = variables("rowscale", (type.shape[0], 1))
        return Quantized(of * scales, scales)  # codes before they are rounded
    return of if type.dtype.is_float else drawn


def _symbol(name: str, signs: Signs) -> Expr:
    sign = signs.get(name, 0)
    return sympy.Symbol(name, real=True, **({"positive": sign > 0} if sign else {}))
