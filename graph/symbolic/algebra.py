"""Derivatives of expressions, and whether two expressions are the same."""

import random

import sympy

from .arrays import Expr

_DIGITS = 30


def derivatives(expression: Expr, of: set[Expr]) -> dict[Expr, Expr]:
    """Those partial derivatives that are not obviously zero."""
    return {x: expression.diff(x) for x in expression.free_symbols & of}


def is_zero(expression: Expr) -> bool:
    """Whether an expression is shown to vanish for all values of its symbols.

    Over a common denominator the numerator must expand to nothing. Exponentials and roots take part
    as unknowns of their own, so a yes is a proof.
    """
    if expression == 0:
        return True
    numerator, _ = sympy.fraction(sympy.together(expression))
    return bool(sympy.expand(numerator) == 0)


def at_a_point(expression: Expr, seed: int = 0) -> Expr:
    """The value at a random rational point, to thirty digits."""
    rng = random.Random(seed)
    point = {}
    for symbol in sorted(expression.free_symbols, key=str):
        size = sympy.Rational(rng.randint(20, 120), 100)
        negative = symbol.is_negative or (not symbol.is_positive and rng.random() < 0.5)
        point[symbol] = -size if negative else size
    return expression.subs(point).evalf(_DIGITS)


def is_nonzero(value: Expr) -> bool:
    """Whether a number is too large to be the rounding of thirty digits."""
    return bool(abs(value) > sympy.Float(10) ** (-_DIGITS // 2))
