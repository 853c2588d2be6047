"""Planted errors are refuted on symbols, and symbols mean what numbers mean.

That every gradient is proved is tests/cli/test_proofs.py.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy
from bitgraph.graph.ops import OPS, infer_types
from bitgraph.graph.ops.record import OpDef
from bitgraph.graph.symbolic.algebra import is_zero
from bitgraph.graph.symbolic.arrays import as_symbols
from bitgraph.graph.symbolic.operands import variables
from bitgraph.graph.symbolic.prove import Verdict, prove, small_cases
from bitgraph.graph.symbolic.trace import trace
from bitgraph.graph.tensors import HostValue, Ternary
from bitgraph.graph.types import GraphError
from op_cases import run
from planted import MODEL_RULES, PLANTED, Rule

ROUNDED = {"quantize", "dequantize", "ternarize", "ternary_matmul"}
"""Ops with codes, which symbols do not round."""

EXACT = [op for op in OPS.values() if op.vjp is not None and op.name not in ROUNDED]


SMALLER = {"attention": (3, 2, 1, 2)}
"""Sizes that are enough for a planted error to show."""


@pytest.mark.parametrize(
    ("name", "sizes", "op"),
    [
        pytest.param(name, sizes, op, id=f"{name}: {what}")
        for family in PLANTED.values()
        for what, name, sizes, op in family
    ],
)
def test_a_planted_error_is_refuted(
    name: str, sizes: tuple[int, ...], op: OpDef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPS, op.name, op)
    case = OPS[name].cases.make(*SMALLER.get(name, sizes))
    results = infer_types(name, tuple(o.type for o in case.operands), case.attrs)
    proof = prove(OPS[name], case, [tuple(range(len(results)))])
    assert proof.verdict is Verdict.REFUTED, proof
    assert "is off by" in proof.note


@pytest.mark.parametrize(("name", "rule"), MODEL_RULES)
def test_a_wrong_rule_is_refuted(name: str, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, name, replace(OPS[name], vjp=rule))
    verdicts = {prove(OPS[name], case).verdict for case in small_cases(OPS[name])}
    assert verdicts == {Verdict.REFUTED}


@pytest.mark.parametrize("op", EXACT, ids=lambda op: op.name)
def test_symbols_mean_what_numbers_mean(op: OpDef) -> None:
    """The expressions, with numbers put in for their symbols, are what the op computes."""
    case = next(iter(small_cases(op)))
    drawn = case.draw(np.random.default_rng(5))
    signs = {} if op.name != "squared_relu" else _signs(drawn[0])
    traced = trace(op, case, drawn, [], signs)
    point: dict[Any, Any] = {}
    numbers: list[HostValue] = []
    for value, symbols in zip(drawn, traced.operands, strict=True):
        if isinstance(value, Ternary):
            point.update({sympy.Symbol("scale", real=True): value.scale})
            point.update(zip(symbols.flat, (value.codes() * value.scale).flat, strict=True))
            numbers.append(value)
        else:
            point.update(zip(symbols.flat, map(float, value.flat), strict=True))
            numbers.append(value.astype(np.float64) if value.dtype.kind == "f" else value)
    for result, wanted in zip(traced.results, run(op, numbers, case), strict=True):
        for expression, number in zip(result.flat, np.asarray(wanted).flat, strict=True):
            shift = dict.fromkeys(expression.atoms(sympy.Dummy), 0.25)
            assert float(expression.subs(shift).subs(point)) == pytest.approx(number, rel=1e-12)


def _signs(values: HostValue) -> dict[str, int]:
    assert isinstance(values, np.ndarray)
    return {f"x0[{i},{j}]": 1 if v > 0 else -1 for (i, j), v in np.ndenumerate(values)}


def test_a_wrong_derivative_of_a_shift_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A softmax that forgets to add its maximum again depends on it."""
    true = OPS["attention"].eval

    def without_top(q: Any, k: Any, v: Any, first: Any, last: Any) -> Any:
        out, lse = true(q, k, v, first, last)
        shift = [[next(iter(e.atoms(sympy.Dummy)), 0) for e in row] for row in lse]
        return out, lse - as_symbols(shift)

    wrong = replace(OPS["attention"], eval=without_top)
    monkeypatch.setitem(OPS, "attention", wrong)
    proof = prove(wrong, wrong.cases.make(3, 1, 1, 2))
    assert proof.verdict is Verdict.REFUTED
    assert "maximum" in proof.note


@pytest.mark.parametrize(
    "function", [np.sin, np.rint, np.floor, np.sign, np.minimum], ids=lambda f: f.__name__
)
def test_a_function_without_meaning_is_refused(function: Any) -> None:
    x = variables("x", (2,))
    operands = (x, x) if function.nin == 2 else (x,)
    with pytest.raises(GraphError, match=rf"np.{function.__name__} has no meaning for symbols"):
        function(*operands)


def test_what_cannot_be_run_is_not_called_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(OPS["silu"], eval=lambda x: x * np.sign(x))
    monkeypatch.setitem(OPS, "silu", wrong)
    proof = prove(wrong, wrong.cases.make(1, 2))
    assert proof.verdict is Verdict.UNDECIDED
    assert proof.note == "it does not run on symbols: np.sign has no meaning for symbols yet"


def test_floats_become_the_rationals_that_they_are() -> None:
    y = variables("y", (1,)) * np.array([0.1])
    assert (
        y[0].coeff(sympy.Symbol("y[0]", real=True)) == sympy.Rational(0.1) != sympy.Rational(1, 10)
    )


@pytest.mark.parametrize(
    ("text", "zero"),
    [
        ("exp(x + y) - exp(x) * exp(y)", True),
        ("1 / sqrt(x**2 + 1) - sqrt(x**2 + 1) / (x**2 + 1)", True),
        ("(x**2 - y**2) / (x - y) - x - y", True),
        ("exp(x) / (exp(x) + exp(y)) + exp(y) / (exp(x) + exp(y)) - 1", True),
        ("exp(x) / (exp(x) + exp(y)) - exp(y) / (exp(x) + exp(y))", False),
        ("(x**2 + 1) ** Rational(3, 2) - (x**2 + 1)", False),
    ],
)
def test_zero(text: str, zero: bool) -> None:
    assert is_zero(sympy.sympify(text)) == zero
