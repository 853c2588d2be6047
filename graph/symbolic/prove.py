"""Proves that the VJP of an op is the transposed Jacobian of its meaning times the cotangent.

Both are run on symbols, for small shapes: differentiating what `eval` gives is the Jacobian J, and
what the nodes of `vjp` give must be J^T c for symbolic cotangents c, exactly. Three things stand
for what no single formula tells:

- The maximum of some scores is any number at all; that the results do not depend on it is proved.
- What depends on signs is proved for each choice of signs.
- A step function is proved on its surrogate: int8 codes are those from before they are rounded.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, product
from typing import Any

import numpy as np
import sympy

from ..ops import OPS, infer_types
from ..ops.record import Case, OpDef
from ..tensors import HostValue
from ..types import DType, GraphError
from .algebra import at_a_point, derivatives, is_nonzero, is_zero
from .arrays import Expr, SymbolArray, UnknownSignError
from .operands import Signs
from .trace import Choices, Trace, Vjp, trace

_SIZE = 3
"""Every size of a case, where its range allows it."""

_DRAWS = 3
"""Draws of whole numbers such as ids, where an op has some."""


class Verdict(StrEnum):
    """How a proof ended."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNDECIDED = "not decided"


@dataclass(frozen=True)
class Proof:
    """What is known of the gradient of an op at one shape.

    Attributes:
        op: its name.
        operands: their types, and the attributes.
        verdict: how it ended.
        note: what was assumed, or the first thing that is wrong.
        seconds: time it took.
    """

    op: str
    operands: str
    verdict: Verdict
    note: str
    seconds: float


@dataclass(frozen=True)
class _Claim:
    """Something that must be zero, and what it says."""

    difference: Expr
    text: str


def prove_all() -> Iterator[Proof]:
    """One proof for each small case of each differentiable op."""
    for op in OPS.values():
        if op.vjp is not None:
            yield from (prove(op, case) for case in small_cases(op))


def small_cases(op: OpDef) -> Iterator[Case]:
    """Sizes of 3, and both ends of a range of two, such as that of a flag."""
    choices = [
        (low, high) if high - low == 1 else (max(low, min(high, _SIZE)),)
        for low, high in op.cases.ranges
    ]
    return (op.cases.make(*sizes) for sizes in product(*choices))


def prove(op: OpDef, case: Case, choices: Choices = ()) -> Proof:
    """Prove or refute the gradient of an op for one case.

    Args:
        op: a differentiable one.
        case: of a few elements.
        choices: sets of results that a cotangent may reach; all there are if none is given.
    """
    begin = time.perf_counter()
    verdict, note = _decide(op, case, choices or _all_choices(op, case))
    types = ", ".join(str(operand.type) for operand in case.operands)
    attrs = ", ".join(f"{name}={value}" for name, value in sorted(case.attrs.items()))
    subject = f"{types} {{{attrs}}}" if attrs else types
    return Proof(op.name, subject, verdict, note, time.perf_counter() - begin)


def _all_choices(op: OpDef, case: Case) -> Choices:
    """Every set of results but the empty one."""
    types = infer_types(op.name, tuple(o.type for o in case.operands), case.attrs)
    sizes = range(len(types), 0, -1)
    return [chosen for size in sizes for chosen in combinations(range(len(types)), size)]


def _decide(op: OpDef, case: Case, choices: Choices) -> tuple[Verdict, str]:
    draws, regions, notes = _draws(case), 0, dict[str, None]()
    try:
        for drawn in draws:
            for traced in _regions(op, case, drawn, choices, {}):
                regions += 1
                notes.update(dict.fromkeys(_assumptions(op, case, traced)))
                for claim in _claims(traced):
                    if not is_zero(claim.difference):
                        return _failure(claim)
    except (GraphError, TypeError, AttributeError) as error:
        return Verdict.UNDECIDED, f"it does not run on symbols: {error}"
    if regions > len(draws):
        notes[f"{regions} choices of signs"] = None
    if len(draws) > 1:
        notes[f"{len(draws)} draws of ids"] = None
    return Verdict.PROVED, "; ".join(notes)


def _assumptions(op: OpDef, case: Case, traced: Trace) -> Iterator[str]:
    """What a proof leans on or leaves out, for people."""
    if any(y.atoms(sympy.Dummy) for result in traced.results for y in _elements(result)):
        yield "whatever the maximum"
    if op.surrogate is not None or any(o.type.dtype is DType.Q8 for o in case.operands):
        yield "codes before rounding"
    for k, gradient in enumerate(traced.vjps[0].gradients):
        if gradient is None and case.operands[k].type.dtype.is_float:
            yield f"none for {op.operands[k]}"


def _draws(case: Case) -> list[tuple[HostValue, ...]]:
    """Numbers for the operands, several where those that are whole differ."""
    draws: dict[bytes, tuple[HostValue, ...]] = {}
    for seed in range(_DRAWS):
        drawn = case.draw(np.random.default_rng(seed))
        whole = [v for v in drawn if isinstance(v, np.ndarray) and v.dtype.kind in "iu"]
        draws.setdefault(b"".join(v.tobytes() for v in whole), drawn)
    return list(draws.values())


def _regions(
    op: OpDef, case: Case, drawn: tuple[HostValue, ...], choices: Choices, signs: Signs
) -> Iterator[Trace]:
    """The op on symbols, once for each choice of the signs that it asks for."""
    try:
        traced = trace(op, case, drawn, choices, signs)
    except UnknownSignError as needed:
        for sign in (1, -1):
            known = {**signs, needed.symbol.name: sign}
            yield from _regions(op, case, drawn, choices, known)
    else:
        yield traced


def _claims(traced: Trace) -> Iterator[_Claim]:
    """All that must be zero: dependence on a maximum, and vjp less transposed Jacobian."""
    results = [_elements(result) for result in traced.results]
    for y in (y for result in results for y in result):
        for unknown in y.atoms(sympy.Dummy):
            yield _Claim(y.diff(unknown), "a result depends on a maximum by more than a shift")
    of = {x for operand in traced.operands for x in _elements(operand)}
    jacobian = [[derivatives(y, of) for y in result] for result in results]
    for vjp in traced.vjps:
        for operand, gradient in zip(traced.operands, vjp.gradients, strict=True):
            if gradient is not None:
                yield from _operand_claims(traced, vjp, jacobian, operand, gradient)


def _operand_claims(
    traced: Trace,
    vjp: Vjp,
    jacobian: list[list[dict[Expr, Expr]]],
    operand: SymbolArray,
    gradient: SymbolArray,
) -> Iterator[_Claim]:
    """The gradient is a linear function of the cotangents, with the derivatives as factors."""
    cotangents = [_elements(cotangent) for cotangent in traced.cotangents]
    seeds = {c for row in cotangents for c in row}
    nothing = dict.fromkeys(seeds, sympy.Integer(0))
    for x, dx in zip(_elements(operand), _elements(gradient), strict=True):
        yield _Claim(dx.xreplace(nothing), f"the gradient of {x} without any cotangent")
        factors = derivatives(dx, seeds)
        for k in range(len(cotangents)):
            for c, dy in zip(cotangents[k], jacobian[k], strict=True):
                wanted = dy.get(x, 0) if k in vjp.reached else 0
                difference = factors.get(c, sympy.Integer(0)) - wanted
                yield _Claim(difference, f"the factor of {c} in the gradient of {x}")


def _elements(array: SymbolArray) -> list[Any]:
    return list(np.asarray(array).reshape(-1))


def _failure(claim: _Claim) -> tuple[Verdict, str]:
    """Refuted where numbers show it too."""
    value = at_a_point(claim.difference)
    if is_nonzero(value):
        return Verdict.REFUTED, f"{claim.text} is off by {sympy.Float(value, 6)} at a point"
    return Verdict.UNDECIDED, f"{claim.text} is not shown to be right"
