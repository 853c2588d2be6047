"""Every vjp against difference quotients, and proof that a wrong one does not pass."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Node, Role, Value
from bitgraph.graph.ops import FAMILIES, OPS
from bitgraph.graph.ops.record import Case, Cotangents, OpDef
from bitgraph.graph.types import GraphError, tensor
from bitgraph.passes.grad import Grad
from gradcheck import FIXED_OPERANDS, check_op, differentiable_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import fixed_cases, random_cases

# quantize is a staircase: its rule is tested for being straight-through, below
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
    assert staircases == {"quantize"}


def test_the_quantizer_passes_its_cotangent_straight_through() -> None:
    b = GraphBuilder("g")
    x = b.add_input("x", tensor("f32", 2, 3), Role.PARAM)
    b.op("quantize", x)
    dq = b.add_input("dq", tensor("f32", 2, 3), Role.INPUT)
    vjp, surrogate = OPS["quantize"].vjp, OPS["quantize"].surrogate
    assert vjp is not None
    assert surrogate is not None
    assert vjp(b, b.nodes[0], dq) == (dq,)
    assert surrogate(b, b.nodes[0]) == (x,)
    assert len(b.nodes) == 1


@pytest.mark.parametrize("op", SMOOTH, ids=lambda op: op.name)
def test_exactly_the_declared_float_operands_have_no_gradient(op: OpDef) -> None:
    """Trainable operands get one in `check_op`; all others must be refused by name."""
    case = op.cases.all()[1]
    graph = differentiable_graph(op, case)
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
    ("name", "sizes"), [("attention", (5, 2, 1, 4)), ("linear_cross_entropy", (4, 3, 5))]
)
def test_gradients_of_one_result_alone(name: str, sizes: tuple[int, ...], index: int) -> None:
    """An op with several results gets None for those that no gradient reaches."""
    check_op(OPS[name], OPS[name].cases.make(*sizes), results=[index])


# Planted errors: each replaces a rule, or the op that a rule computes with, by a wrong one


def scaled(name: str, operand: int, factor: float) -> OpDef:
    """The op with one of its cotangents multiplied by a number."""

    def rule(b: GraphBuilder, node: Node, *given: Value | None) -> Cotangents:
        true = OPS_BEFORE[name].vjp
        assert true is not None
        results = list(true(b, node, *given))
        wrong = results[operand]
        assert wrong is not None
        results[operand] = b.op("scale", wrong, factor=factor)
        return tuple(results)

    return replace(OPS[name], vjp=rule)


OPS_BEFORE = dict(OPS)


def true_eval(name: str) -> Callable[..., Any]:
    return OPS_BEFORE[name].eval


def ruled(name: str, rule: Callable[..., Cotangents]) -> OpDef:
    return replace(OPS[name], vjp=rule)


def computed(name: str, meaning: Callable[..., Any]) -> OpDef:
    return replace(OPS[name], eval=meaning)


def mul_swapped(b: GraphBuilder, node: Node, dc: Value) -> Cotangents:
    x, y = node.inputs
    return b.op("mul", dc, x), b.op("mul", dc, y)


def mul_scalar_of_itself(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return b.op("mul_scalar", dy, node.inputs[1]), b.op("dot", dy, dy)


def dot_swapped(b: GraphBuilder, node: Node, ds: Value) -> Cotangents:
    x, y = node.inputs
    return b.op("mul_scalar", x, ds), b.op("mul_scalar", y, ds)


def squared_relu_without_mask(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return (b.op("mul", dy, b.op("scale", node.inputs[0], factor=2.0)),)


def squared_relu_without_two(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return (b.op("mul", dy, b.op("relu", node.inputs[0])),)


def silu_with_its_value(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return (b.op("mul", dy, b.op("silu", node.inputs[0])),)


def rms_norm_with(
    swap: bool = False, unweighted: bool = False, eps: float | None = None
) -> Callable[..., Cotangents]:
    def rule(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
        x, weight = node.inputs
        used = b.op("full_like", weight, value=1.0) if unweighted else weight
        dx = b.op("rms_norm_grad", *((x, dy) if swap else (dy, x)), used, **node.attributes)
        attrs = node.attributes if eps is None else {"eps": eps}
        return dx, b.op("rms_norm_weight_grad", dy, x, **attrs)

    return rule


def rms_norm_grad_without_projection(dy: Any, x: Any, weight: Any, *, eps: float) -> Any:
    return dy * weight / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + eps)


def matmul_with(flip_x: bool, flip_w: bool) -> Callable[..., Cotangents]:
    """Transposes forgotten in one of the two products."""

    def rule(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
        x, w = node.inputs
        transposed = node.attributes["transpose_b"]
        dx = b.op("matmul", dy, w, transpose_b=transposed if flip_x else not transposed)
        pair = (x, dy) if transposed == flip_w else (dy, x)
        return dx, b.op("contract_rows", *pair)

    return rule


def contract_rows_swapped(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    x, y = node.inputs
    return b.op("matmul", x, dy, transpose_b=False), b.op("matmul", y, dy, transpose_b=True)


def untransposed(name: str) -> Callable[..., Cotangents]:
    return lambda b, node, dy: (b.op(name, dy, node.inputs[1]), None)


def ternary_matmul_t_without_scale(dy: Any, w: Any) -> Any:
    return dy @ w.dense(dy.dtype)


def rope_turned_again(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return b.op("rope", dy, node.inputs[1], **node.attributes), None


def attention_with(delta_factor: float = 1.0, lse_factor: float = -1.0, swap: bool = False) -> Any:
    """delta is sum(dout out) - dlse; its two terms are multiplied by the factors."""

    def rule(b: GraphBuilder, node: Node, dout: Value, dlse: Value) -> Cotangents:
        q, k, v, first, last = node.inputs
        out, lse = node.outputs
        delta = b.op("scale", b.op("row_dot", dout, out), factor=delta_factor)
        delta = b.op("add", delta, b.op("scale", dlse, factor=lse_factor))
        dq, dk, dv = b.ops("attention_grad", q, k, v, lse, delta, dout, first, last)
        return (dq, dv, dk, None, None) if swap else (dq, dk, dv, None, None)

    return rule


def attention_grad_without_causality(*operands: Any) -> Any:
    *rest, first, last = operands
    return true_eval("attention_grad")(*rest, first, np.maximum(last, last[-1]))


def attention_grad_across_examples(*operands: Any) -> Any:
    *rest, first, last = operands
    return true_eval("attention_grad")(*rest, np.zeros_like(first), last)


def attention_grad_of_first_in_group(q: Any, k: Any, v: Any, *rest: Any) -> Any:
    """Keys and values hear only the first of the query heads that share them."""
    lse, delta, dout, first, last = rest
    true = true_eval("attention_grad")
    dq, _, _ = true(q, k, v, *rest)
    heard = np.arange(q.shape[1]) % (q.shape[1] // k.shape[1]) == 0
    delta, dout = delta * heard, dout * heard[:, None]
    return dq, *true(q, k, v, lse, delta, dout, first, last)[1:]


def scatter_overwriting(x: Any, ids: Any, *, rows: int) -> Any:
    result = np.zeros((rows, x.shape[1]), x.dtype)
    result[ids] = x
    return result


def scatter_shifted(x: Any, ids: Any, *, rows: int) -> Any:
    return np.roll(true_eval("scatter_add_rows")(x, ids, rows=rows), 1, axis=0)


def gather_in_reverse(table: Any, ids: Any) -> Any:
    return table[ids[::-1]]


def loss_with(spread: Any = "both", peak: Any = "nll", factor: float = 1.0) -> Any:
    """dh = (spread softmax - peak onehot) table; the truth is spread = dnll + dlse, peak = dnll."""

    def rule(b: GraphBuilder, node: Node, dnll: Value, dlse: Value) -> Cotangents:
        h, table, labels = node.inputs
        known = {
            "both": b.op("add", dnll, dlse),
            "nll": dnll,
            "none": b.op("scale", dnll, factor=0.0),
        }
        operands = (known[spread], known[peak], h, table, labels, node.outputs[1])
        dh = b.op("linear_cross_entropy_grad", *operands)
        return b.op("scale", dh, factor=factor), None, None

    return rule


def loss_grad_of_skipped_rows(*operands: Any) -> Any:
    """Rows without a label are taken for rows labelled 0."""
    spread, peak, h, table, labels, lse = operands
    true = true_eval("linear_cross_entropy_grad")
    return true(spread, peak, h, table, np.maximum(labels, 0), lse)


def loss_grad_of_first_half(*operands: Any) -> Any:
    spread, peak, h, table, labels, lse = operands
    half = table.copy()
    half[len(half) // 2 :] = 0
    return true_eval("linear_cross_entropy_grad")(spread, peak, h, half, labels, lse)


SQUARE = (4, 4, 4)
HEADS = (4, 2, 2, 3)
ROWS = (3, 4, 6)
LOSS = (6, 4, 7)
DX_ONLY = "linear_cross_entropy_grad"

PLANTED: dict[str, list[tuple[str, str, tuple[int, ...], OpDef]]] = {
    "elementwise": [
        ("the sign of b is lost", "sub", (3, 4), ruled("sub", lambda b, node, dc: (dc, dc))),
        ("the sign of a is wrong", "add", (3, 4), scaled("add", 0, -1.0)),
        ("operands are swapped", "mul", (3, 4), ruled("mul", mul_swapped)),
        ("the factor is dropped", "scale", (3, 4), ruled("scale", lambda b, node, dy: (dy,))),
        ("1% too large", "scale", (3, 4), scaled("scale", 0, 1.01)),
        ("x is ignored", "mul_scalar", (3, 4), ruled("mul_scalar", mul_scalar_of_itself)),
        ("operands are swapped", "dot", (3, 4), ruled("dot", dot_swapped)),
        ("no mask", "squared_relu", (3, 4), ruled("squared_relu", squared_relu_without_mask)),
        ("half of it", "squared_relu", (3, 4), ruled("squared_relu", squared_relu_without_two)),
        ("value for slope", "silu", (3, 4), ruled("silu", silu_with_its_value)),
        ("not zero", "full_like", (3, 4), ruled("full_like", lambda b, node, dy: (dy,))),
        ("0.1% too small", "reshape", (3, 2, 4), scaled("reshape", 0, 0.999)),
    ],
    "norm": [
        ("the sign of x is wrong", "rms_norm", (4, 5), scaled("rms_norm", 0, -1.0)),
        ("1% too large", "rms_norm", (4, 5), scaled("rms_norm", 0, 1.01)),
        ("1% too large in the weight", "rms_norm", (4, 5), scaled("rms_norm", 1, 1.01)),
        ("operands are swapped", "rms_norm", (4, 5), ruled("rms_norm", rms_norm_with(swap=True))),
        ("no weight", "rms_norm", (4, 5), ruled("rms_norm", rms_norm_with(unweighted=True))),
        ("another eps", "rms_norm", (4, 5), ruled("rms_norm", rms_norm_with(eps=1e-2))),
        (
            "the projection is dropped",
            "rms_norm",
            (4, 5),
            computed("rms_norm_grad", rms_norm_grad_without_projection),
        ),
    ],
    "linear": [
        ("a is not transposed", "matmul", (*SQUARE, 1), ruled("matmul", matmul_with(True, False))),
        ("b is transposed", "matmul", (*SQUARE, 1), ruled("matmul", matmul_with(False, True))),
        ("a is transposed", "matmul", (*SQUARE, 0), ruled("matmul", matmul_with(True, False))),
        ("1% too large in b", "matmul", (3, 4, 5, 1), scaled("matmul", 1, 1.01)),
        (
            "operands are swapped",
            "contract_rows",
            SQUARE,
            ruled("contract_rows", contract_rows_swapped),
        ),
        (
            "not transposed",
            "ternary_matmul",
            SQUARE,
            ruled("ternary_matmul", untransposed("ternary_matmul")),
        ),
        (
            "not transposed back",
            "ternary_matmul_t",
            SQUARE,
            ruled("ternary_matmul_t", untransposed("ternary_matmul_t")),
        ),
        ("wrong sign", "ternary_matmul", (3, 5, 4), scaled("ternary_matmul", 0, -1.0)),
        (
            "the scale is dropped",
            "ternary_matmul",
            (3, 5, 4),
            computed("ternary_matmul_t", ternary_matmul_t_without_scale),
        ),
    ],
    "attention": [
        ("not the inverse", "rope", (4, 2, 3, 0), ruled("rope", rope_turned_again)),
        ("the inverse of the inverse", "rope", (4, 2, 3, 1), ruled("rope", rope_turned_again)),
        ("not rotated", "rope", (4, 2, 3, 0), ruled("rope", lambda b, node, dy: (dy, None))),
        ("no delta", "attention", HEADS, ruled("attention", attention_with(delta_factor=0.0))),
        ("dlse is ignored", "attention", HEADS, ruled("attention", attention_with(lse_factor=0.0))),
        (
            "dlse has its sign",
            "attention",
            HEADS,
            ruled("attention", attention_with(lse_factor=1.0)),
        ),
        ("dk for dv", "attention", HEADS, ruled("attention", attention_with(swap=True))),
        ("sqrt(width) in q", "attention", HEADS, scaled("attention", 0, 3**0.5)),
        ("wrong sign of k", "attention", HEADS, scaled("attention", 1, -1.0)),
        ("1% too large in v", "attention", HEADS, scaled("attention", 2, 1.01)),
        (
            "sees later tokens",
            "attention",
            HEADS,
            computed("attention_grad", attention_grad_without_causality),
        ),
        (
            "sees other examples",
            "attention",
            HEADS,
            computed("attention_grad", attention_grad_across_examples),
        ),
        (
            "one head of each group",
            "attention",
            HEADS,
            computed("attention_grad", attention_grad_of_first_in_group),
        ),
    ],
    "embedding": [
        ("wrong sign", "gather_rows", ROWS, scaled("gather_rows", 0, -1.0)),
        ("1% too large", "gather_rows", ROWS, scaled("gather_rows", 0, 1.01)),
        ("the last wins", "gather_rows", ROWS, computed("scatter_add_rows", scatter_overwriting)),
        ("off by a row", "gather_rows", ROWS, computed("scatter_add_rows", scatter_shifted)),
        ("wrong sign", "scatter_add_rows", ROWS, scaled("scatter_add_rows", 0, -1.0)),
        ("backwards", "scatter_add_rows", ROWS, computed("gather_rows", gather_in_reverse)),
        (
            "not gathered",
            "scatter_add_rows",
            (3, 4, 3),
            ruled("scatter_add_rows", lambda b, node, dt: (dt, None)),
        ),
    ],
    "loss": [
        (what, "linear_cross_entropy", LOSS, op)
        for what, op in (
            ("wrong sign", ruled("linear_cross_entropy", loss_with(factor=-1.0))),
            ("1% too large", ruled("linear_cross_entropy", loss_with(factor=1.01))),
            ("softmax alone", ruled("linear_cross_entropy", loss_with(peak="none"))),
            ("label alone", ruled("linear_cross_entropy", loss_with(spread="none"))),
            ("dlse is ignored", ruled("linear_cross_entropy", loss_with(spread="nll"))),
            ("dlse in both", ruled("linear_cross_entropy", loss_with(peak="both"))),
            ("skipped rows count", computed(DX_ONLY, loss_grad_of_skipped_rows)),
            ("half of the vocabulary", computed(DX_ONLY, loss_grad_of_first_half)),
        )
    ],
}


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
