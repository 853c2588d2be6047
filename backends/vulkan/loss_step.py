"""The loss of a step with its gradient alone, for what has to know of the node they become."""

from ...graph.build import GraphBuilder
from ...graph.ir import Graph, Role
from ...graph.types import TensorType


def loss_step(h: TensorType, table: TensorType, labels: TensorType, weights: TensorType) -> Graph:
    """The graph that the pass `grad` makes of a weighted sum of losses, before it is fused.

    Its inputs are `x` for h, `w` for the table, `labels` and `weights`; its results are `y`, the
    gradient by h, and `loss`.
    """
    b = GraphBuilder("loss_step")
    x, w = b.add_input("x", h, Role.INPUT), b.add_input("w", table, Role.WEIGHT)
    targets = b.add_input("labels", labels, Role.INPUT)
    each = b.add_input("weights", weights, Role.INPUT)
    nll, lse = b.ops("linear_cross_entropy", x, w, targets, names=("nll", "lse"))
    loss = b.op("dot", nll, each, name="loss")
    dnll = b.op("mul_scalar", each, b.op("full_like", loss, value=1.0))
    y = b.op("linear_cross_entropy_grad", dnll, dnll, x, w, targets, lse, name="y")
    return b.finish((y, loss))
