"""Every vjp against difference quotients, and proof that a wrong one does not pass."""

from dataclasses import replace

import pytest
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Role
from bitgraph.graph.ops import FAMILIES, OPS
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.types import GraphError, tensor
from bitgraph.passes.grad import Grad
from gradcheck import FIXED_OPERANDS, check_op, differentiable_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import fixed_cases, random_cases
from planted import PLANTED

# the quantizers are staircases: their rules are tested for being straight-through, below
SMOOTH = [op for op in OPS.values() if op.vjp is not None and op.surrogate is None]


@pytest.mark.parametrize(("op", "case"), fixed_cases(SMOOTH))
def test_gradients_of_the_fixed_cases(op: OpDef, case: Case) -> None:
    check_op(op, case)


@pytest.mark.parametrize("op", SMOOTH, ids=lambda op: op.name)
def test_gradients_of_random_shapes(op: OpDef) -> None:
    @settings(max_examples=10, derandomize=True, deadline=None)
    @given(random_cases(op), st.integers(0, 2**16))
    def check(case: Case, seed: int) -> None:
        check_op(op, case, seed)

    check()


def test_every_op_is_checked_or_declares_itself() -> None:
    declared = {op.name for op in OPS.values() if op.no_vjp}
    staircases = {op.name for op in OPS.values() if op.surrogate is not None}
    assert declared | staircases | {op.name for op in SMOOTH} == set(OPS)
    assert staircases == set(STRAIGHT)


STRAIGHT = {"quantize": "f32", "dequantize": "q8", "ternarize": "f32"}
"""Ops whose gradient is that of the identity, and what they take."""


@pytest.mark.parametrize(("op", "dtype"), STRAIGHT.items())
def test_a_quantizer_passes_its_cotangent_straight_through(op: str, dtype: str) -> None:
    b = GraphBuilder("g")
    x = b.add_input("x", tensor(dtype, 2, 3), Role.PARAM)
    b.op(op, x)
    dq = b.add_input("dq", tensor("f32", 2, 3), Role.INPUT)
    vjp, surrogate = OPS[op].vjp, OPS[op].surrogate
    assert vjp is not None
    assert surrogate is not None
    assert vjp(b, b.nodes[0], dq) == (dq,)
    assert surrogate(b, b.nodes[0]) == (x,)
    assert len(b.nodes) == 1


@pytest.mark.parametrize("op", SMOOTH, ids=lambda op: op.name)
def test_exactly_the_declared_float_operands_have_no_gradient(op: OpDef) -> None:
    """Trainable operands get one in `check_op`; all others must be refused by name."""
    case = op.cases.all()[1]
    graph = differentiable_graph(op, case, masters=True)
    for k, item in enumerate(graph.inputs[: len(case.operands)]):
        if item.role is Role.PARAM:
            continue
        is_float = case.operands[k].type.dtype.is_float
        assert is_float == ((op.name, op.operands[k]) in FIXED_OPERANDS)
        inputs = tuple(replace(i, role=Role.PARAM) if i is item else i for i in graph.inputs)
        with pytest.raises(
            GraphError, match=rf"{op.name} has no gradient for its .* {op.operands[k]} \(%x{k}\)"
        ):
            Grad()(replace(graph, inputs=inputs))


def test_a_half_precision_matrix_has_no_gradient() -> None:
    b = GraphBuilder("g")
    a = b.add_input("a", tensor("f32", 2, 3), Role.PARAM)
    w = b.add_input("w", tensor("f16", 4, 3), Role.PARAM)
    y = b.op("matmul", a, w, transpose_b=True)
    loss = b.op("dot", y, y, name="loss")
    with pytest.raises(GraphError, match=r"matmul has no gradient for its operand b \(%w\)"):
        Grad()(b.finish((loss,)))


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("name", "sizes"), [("attention", (5, 2, 1, 4)), ("linear_cross_entropy", (4, 3, 5, 1))]
)
def test_gradients_of_one_result_alone(name: str, sizes: tuple[int, ...], index: int) -> None:
    """An op with several results gets None for those that no gradient reaches."""
    check_op(OPS[name], OPS[name].cases.make(*sizes), results=[index])


# Planted errors


def test_every_family_with_gradients_has_planted_errors() -> None:
    with_gradients = {f for f, ops in FAMILIES.items() if any(op.vjp is not None for op in ops)}
    assert set(PLANTED) == with_gradients
    assert min(map(len, PLANTED.values())) >= 5


@pytest.mark.parametrize(
    ("name", "sizes", "op"),
    [
        pytest.param(name, sizes, op, id=f"{name}: {what}")
        for family in PLANTED.values()
        for what, name, sizes, op in family
    ],
)
def test_a_planted_error_is_caught(
    name: str, sizes: tuple[int, ...], op: OpDef, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = OPS[name].cases.make(*sizes)
    check_op(OPS[name], case)
    monkeypatch.setitem(OPS, op.name, op)
    with pytest.raises(AssertionError, match="is off by"):
        check_op(OPS[name], case)
