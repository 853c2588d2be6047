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


_SLOPES = {
    "squared_relu": """
        slope   = scale(half)
        half    = relu(gate)
    """,
    "silu": """
        slope   = silu_slope(gate)
    """,
}
"""How the slope of an activation is computed."""

_AGAIN = {
    "_norm_again": """
        gated   = mul(active, up)
        normed  = rms_norm(gated, weight)
        active  = {act}(gate)
    """,
    "_again": """
        gated   = mul(active, up)
        active  = {act}(gate)
    """,
    "": "",
}
"""What of the forward pass is computed once more beside the gradient of a gate."""


def _gate_gradients() -> Iterator[Pattern]:
    for suffix, again in _AGAIN.items():
        for act, slope in _SLOPES.items():
            lines = f"""
                dgated  = rms_norm_grad(dnormed, gated, weight)
                {again.format(act=act)}
                dup     = mul(dgated, active)
                dactive = mul(dgated, up)
                dgate   = mul(dactive, slope)
                {slope}
            """
            text = "\n".join(line for line in lines.splitlines() if line.strip())
            yield Pattern(f"{act}_gate_grad{suffix}", text, also=("dgated",), absorbs=("add",))


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
    *_gate_gradients(),
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
