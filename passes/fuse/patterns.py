"""The table of patterns, in the order in which they are tried: the larger before its parts."""

from collections.abc import Iterator
from typing import Protocol

from ...graph.ir import Node
from .elementwise import ElementwiseChains
from .pattern import Pattern
from .products import CodeGradients, LowProducts, ProductGradients, Products, WeightGradients
from .projections import Projections
from .updates import Updates
from .view import View


class Finder(Protocol):
    """A row of the table: a name, and how groups of nodes are found."""

    @property
    def name(self) -> str:
        """Name of the pattern; it chooses the kernel."""
        ...

    def find(self, view: View) -> Iterator[tuple[Node, ...]]:
        """Groups that share no node."""
        ...


ROW_PATTERNS = (
    Pattern(
        "gate_norm_quantize",
        """
        active = squared_relu|silu(gate)
        gated  = mul(active, up)
        normed = rms_norm(gated, weight)
        codes  = quantize(normed)
        """,
        also=("active", "gated", "normed"),
    ),
    Pattern(
        "add_norm_quantize",
        """
        sum    = add(x, y)
        normed = rms_norm(sum, weight)
        codes  = quantize(normed)
        """,
        also=("sum", "normed"),
    ),
    Pattern(
        "norm_quantize",
        """
        normed = rms_norm(x, weight)
        codes  = quantize(normed)
        """,
        also=("normed",),
    ),
    Pattern(
        "add_norm",
        """
        sum    = add(x, y)
        normed = rms_norm(sum, weight)
        """,
        also=("sum",),
    ),
    Pattern(
        "squared_relu_gate_grad_norm_again",
        """
        dgated  = rms_norm_grad(dnormed, gated, weight)
        gated   = mul(active, up)
        normed  = rms_norm(gated, weight)
        active  = squared_relu(gate)
        dup     = mul(dgated, active)
        dactive = mul(dgated, up)
        dgate   = mul(dactive, slope)
        slope   = scale(half)
        half    = relu(gate)
        """,
        also=("dgated",),
        absorbs=("add",),
    ),
    Pattern(
        "silu_gate_grad_norm_again",
        """
        dgated  = rms_norm_grad(dnormed, gated, weight)
        gated   = mul(active, up)
        normed  = rms_norm(gated, weight)
        active  = silu(gate)
        dup     = mul(dgated, active)
        dactive = mul(dgated, up)
        dgate   = mul(dactive, slope)
        slope   = silu_slope(gate)
        """,
        also=("dgated",),
        absorbs=("add",),
    ),
    Pattern(
        "squared_relu_gate_grad_again",
        """
        dgated  = rms_norm_grad(dnormed, gated, weight)
        gated   = mul(active, up)
        active  = squared_relu(gate)
        dup     = mul(dgated, active)
        dactive = mul(dgated, up)
        dgate   = mul(dactive, slope)
        slope   = scale(half)
        half    = relu(gate)
        """,
        also=("dgated",),
        absorbs=("add",),
    ),
    Pattern(
        "silu_gate_grad_again",
        """
        dgated  = rms_norm_grad(dnormed, gated, weight)
        gated   = mul(active, up)
        active  = silu(gate)
        dup     = mul(dgated, active)
        dactive = mul(dgated, up)
        dgate   = mul(dactive, slope)
        slope   = silu_slope(gate)
        """,
        also=("dgated",),
        absorbs=("add",),
    ),
    Pattern(
        "squared_relu_gate_grad",
        """
        dgated  = rms_norm_grad(dnormed, gated, weight)
        dup     = mul(dgated, active)
        dactive = mul(dgated, up)
        dgate   = mul(dactive, slope)
        slope   = scale(half)
        half    = relu(gate)
        """,
        also=("dgated",),
        absorbs=("add",),
    ),
    Pattern(
        "silu_gate_grad",
        """
        dgated  = rms_norm_grad(dnormed, gated, weight)
        dup     = mul(dgated, active)
        dactive = mul(dgated, up)
        dgate   = mul(dactive, slope)
        slope   = silu_slope(gate)
        """,
        also=("dgated",),
        absorbs=("add",),
    ),
    Pattern(
        "norm_grad_add",
        """
        dx  = rms_norm_grad(dy, x, weight)
        sum = add(dx, dres)
        """,
        absorbs=("add",),
    ),
    Pattern(
        "add_norm_grad",
        """
        dy = add(a, b)
        dx = rms_norm_grad(dy, x, weight)
        """,
        absorbs=("add",),
    ),
)
"""Groups that treat every row alike: a workgroup a row, which stays in registers."""

ATTENTION_GRAD_ROPE = Pattern(
    "attention_grad_rope",
    """
    dq, dk, dv = attention_grad(q, k, v, lse, delta, dout, first, last)
    dq_turned  = rope(dq, table)
    dk_turned  = rope(dk, table)
    """,
)
"""Gradients for rotated queries and keys, turned back where they are written."""

LOSS_AND_GRADIENT = Pattern(
    "loss_and_gradient",
    """
    nll, lse = linear_cross_entropy(h, table, labels)
    loss     = dot(nll, weights)
    one      = full_like(loss)
    dnll     = mul_scalar(weights, one)
    dh       = linear_cross_entropy_grad(dnll, dnll, h, table, labels, lse)
    """,
    also=("nll", "loss"),
)
"""The loss of a step and its gradient, whose logits are the same."""

LOSS_GRADIENTS = Pattern(
    "loss_gradients",
    """
    dh     = linear_cross_entropy_grad(spread, peak, h, table, labels, lse)
    dtable = linear_cross_entropy_table_grad(spread, peak, h, table, labels, lse)
    """,
)
"""Both gradients of the cross-entropy, which begin with that of the logits."""

PRODUCTS = (
    ProductGradients(),
    CodeGradients(),
    WeightGradients(),
    Projections(),
    Products(),
    LowProducts(),
)
"""Groups around matrix products, which take the sums before and behind them."""

ELEMENTWISE = ElementwiseChains("elementwise")
"""Whatever element-wise nodes are left, on whatever shapes."""

PATTERNS: tuple[Finder, ...] = (
    ATTENTION_GRAD_ROPE,
    LOSS_AND_GRADIENT,
    LOSS_GRADIENTS,
    *PRODUCTS,
    *ROW_PATTERNS,
    ELEMENTWISE,
    Updates(),
)
