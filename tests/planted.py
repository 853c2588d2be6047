"""Wrong gradients: each replaces a rule, or the op that a rule computes with, by a wrong one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Node, Value
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.record import Cotangents, OpDef

Rule: TypeAlias = Callable[..., Cotangents]

OPS_BEFORE = dict(OPS)


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


def true_eval(name: str) -> Callable[..., Any]:
    return OPS_BEFORE[name].eval


def ruled(name: str, rule: Rule) -> OpDef:
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


def rms_norm_with(swap: bool = False, unweighted: bool = False, eps: float | None = None) -> Rule:
    def rule(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
        x, weight = node.inputs
        used = b.op("full_like", weight, value=1.0) if unweighted else weight
        dx = b.op("rms_norm_grad", *((x, dy) if swap else (dy, x)), used, **node.attributes)
        attrs = node.attributes if eps is None else {"eps": eps}
        return dx, b.op("rms_norm_weight_grad", dy, x, **attrs)

    return rule


def rms_norm_grad_without_projection(dy: Any, x: Any, weight: Any, *, eps: float) -> Any:
    return dy * weight / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + eps)


def matmul_with(flip_x: bool, flip_w: bool) -> Rule:
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


def untransposed(name: str) -> Rule:
    return lambda b, node, dy: (b.op(name, dy, node.inputs[1]), None)


def ternary_matmul_t_without_scale(dy: Any, w: Any) -> Any:
    return dy @ w.dense(dy.dtype)


def codes_as_activations(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    """The gradient of the weight from what the next layer sees, not from what this one saw."""
    dx = b.op("ternary_matmul_t", dy, node.inputs[1])
    return dx, b.op("contract_rows", dy, dx)


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
        dtable = b.op("linear_cross_entropy_table_grad", *operands)
        return b.op("scale", dh, factor=factor), dtable, None

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


def table_grad_of_skipped_rows(*operands: Any) -> Any:
    spread, peak, h, table, labels, lse = operands
    return true_eval(DTABLE)(spread, peak, h, table, np.maximum(labels, 0), lse)


def table_grad_shifted(*operands: Any) -> Any:
    return np.roll(true_eval(DTABLE)(*operands), 1, axis=0)


SQUARE = (4, 4, 4)
HEADS = (4, 2, 2, 3)
ROWS = (3, 4, 6)
LOSS = (6, 4, 7, 1)
DX_ONLY = "linear_cross_entropy_grad"
DTABLE = "linear_cross_entropy_table_grad"


def dropout_with(**changes: Any) -> Rule:
    """The cotangent dropped by another mask."""

    def rule(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
        return b.op("dropout", dy, node.inputs[1], **{**node.attributes, **changes}), None

    return rule


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
    "dropout": [
        ("no mask", "dropout", (5, 7, 3), ruled("dropout", lambda b, node, dy: (dy, None))),
        ("another place", "dropout", (5, 7, 3), ruled("dropout", dropout_with(stream=3))),
        ("another seed", "dropout", (5, 7, 3), ruled("dropout", dropout_with(seed=8))),
        ("more is dropped", "dropout", (5, 7, 3), ruled("dropout", dropout_with(p=0.6))),
        ("not divided by what is kept", "dropout", (5, 7, 3), scaled("dropout", 0, 0.7)),
        ("divided twice", "dropout", (5, 7, 3), scaled("dropout", 0, 1 / 0.7)),
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
        ("1% too large in w", "ternary_matmul", (3, 5, 4), scaled("ternary_matmul", 1, 1.01)),
        ("dx for x", "ternary_matmul", SQUARE, ruled("ternary_matmul", codes_as_activations)),
        (
            "1% too large in w",
            "ternary_matmul_t",
            (3, 5, 4),
            scaled("ternary_matmul_t", 1, 1.01),
        ),
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
            ("wrong sign of the table", scaled("linear_cross_entropy", 1, -1.0)),
            ("1% too large in the table", scaled("linear_cross_entropy", 1, 1.01)),
            ("skipped rows count in the table", computed(DTABLE, table_grad_of_skipped_rows)),
            ("the table by the wrong rows", computed(DTABLE, table_grad_shifted)),
        )
    ],
}


# Rules that are wrong enough to show in a whole model


def residual_lost(b: GraphBuilder, node: Node, dc: Value) -> Cotangents:
    return dc, b.op("scale", dc, factor=0.0)


def slope_of_relu(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return (b.op("mul", dy, b.op("relu", node.inputs[0])),)


def not_rotated_back(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return dy, None


def one_percent_large(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    wrong = b.op("scale", b.op("ternary_matmul_t", dy, node.inputs[1]), factor=1.01)
    return wrong, None


def normed_twice(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return b.op("rms_norm", dy, node.inputs[1], **node.attributes), None


def wrong_sign_of_gate(b: GraphBuilder, node: Node, dc: Value) -> Cotangents:
    x, y = node.inputs
    return b.op("scale", b.op("mul", dc, y), factor=-1.0), b.op("mul", dc, x)


MASTER_RULES: list[tuple[str, OpDef]] = [
    ("a projection's master", scaled("ternary_matmul", 1, 1.01)),
    ("the lookup in the tied table", scaled("gather_rows", 0, 0.0)),
    ("the head of the tied table", scaled("linear_cross_entropy", 1, 0.0)),
    ("a norm's gain", scaled("rms_norm", 1, 1.01)),
    ("what lies behind a projection", scaled("ternary_matmul", 0, 1.01)),
]

MODEL_RULES: list[tuple[str, Rule]] = [
    ("add", residual_lost),
    ("squared_relu", slope_of_relu),
    ("rope", not_rotated_back),
    ("ternary_matmul", one_percent_large),
    ("rms_norm", normed_twice),
    ("mul", wrong_sign_of_gate),
]
