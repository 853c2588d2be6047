"""Arrays of symbols that go through the very NumPy functions that numbers go through.

An op's `eval` is run as it stands. Its arrays are a subclass of ndarray whose elements are sympy
expressions: arithmetic and products of matrices are NumPy's own loops over objects; functions that
NumPy has for floats alone are given their meaning here.
"""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import sympy

from ..tensors import Ternary
from ..types import GraphError

Expr: TypeAlias = Any
"""A sympy expression; sympy states no types."""


class UnknownSignError(Exception):
    """A maximum of a symbol and zero, which depends on the symbol's sign.

    Attributes:
        symbol: the one whose sign is wanted.
    """

    def __init__(self, symbol: Expr) -> None:
        super().__init__(f"the sign of {symbol} is not known")
        self.symbol = symbol


class SymbolArray(np.ndarray[Any, Any]):
    """An array of expressions. They are exact, so no element type is narrower than another."""

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        """The same array, because a cast does nothing but round."""
        return self

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """What a NumPy function does with expressions."""
        if method == "at":
            target, places, *values = inputs
            return ufunc.at(target, places, *map(exact, values))
        if ufunc is np.vecdot:
            return np.sum(np.multiply(*inputs), axis=-1)
        if "out" in kwargs:
            kwargs["out"] = tuple(array.view(np.ndarray) for array in kwargs["out"])
        result = getattr(_on_symbols(ufunc), method)(*map(exact, inputs), **kwargs)
        return as_symbols(result)


@dataclass(frozen=True, eq=False)
class SymbolicTernary(Ternary):
    """A ternary weight whose codes are expressions: what holds of it holds of all codes."""

    symbols: SymbolArray = field(kw_only=True)

    def codes(self) -> Any:
        """One expression for each code."""
        return self.symbols


def as_symbols(values: Any) -> SymbolArray:
    """An array of expressions from a scalar, an array, or nested lists of them."""
    array: SymbolArray = exact(values).view(SymbolArray)
    return array


def exact(values: Any) -> Any:
    """A plain array with expressions as they are, and numbers as the rationals that they are."""
    array = np.asarray(values, dtype=object)
    return np.asarray(_EXACT(array), dtype=object) if array.size else array


def _exact_number(value: Any) -> Expr:
    if isinstance(value, float) and np.isinf(value):
        return sympy.oo if value > 0 else -sympy.oo
    return value if isinstance(value, sympy.Basic) else sympy.Rational(value)


def _exp(x: Expr) -> Expr:
    """A hidden score is minus infinity plus something finite."""
    return sympy.Integer(0) if x.has(-sympy.oo) else sympy.exp(x)


def _tanh(x: Expr) -> Expr:
    """Written with the exponential, so that no identity between the two has to be found."""
    square = sympy.exp(2 * x)
    return (square - 1) / (square + 1)


def _maximum(a: Expr, b: Expr) -> Expr:
    """The larger one where signs tell, else a new unknown.

    The maximum of some scores only shifts them. Taken as an unknown it is whatever it may be, and
    whoever uses the results proves that they do not depend on it.
    """
    if -sympy.oo in (a, b):
        return b if a == -sympy.oo else a
    if (a - b).is_nonnegative:
        return a
    if (a - b).is_nonpositive:
        return b
    for one, other in ((a, b), (b, a)):
        if one.is_Symbol and other.is_zero:
            raise UnknownSignError(one)
    return sympy.Dummy("maximum", real=True)


_EXACT = np.frompyfunc(_exact_number, 1, 1)

_AS_THEY_ARE = {np.add, np.subtract, np.multiply, np.divide, np.negative, np.matmul}
"""NumPy's loops over objects, which use the operators of the expressions."""

_MEANINGS: dict[np.ufunc, Any] = {
    np.exp: np.frompyfunc(_exp, 1, 1),
    np.log: np.frompyfunc(sympy.log, 1, 1),
    np.sqrt: np.frompyfunc(sympy.sqrt, 1, 1),
    np.tanh: np.frompyfunc(_tanh, 1, 1),
    np.maximum: np.frompyfunc(_maximum, 2, 1),
}


def _on_symbols(ufunc: np.ufunc) -> Any:
    if ufunc in _AS_THEY_ARE:
        return ufunc
    if ufunc in _MEANINGS:
        return _MEANINGS[ufunc]
    raise GraphError(f"np.{ufunc.__name__} has no meaning for symbols yet")
