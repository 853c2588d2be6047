"""What the kernels of a node do with memory, for passes that run before there is a plan."""

from ...graph.analysis import Footprint
from ...graph.errors import BitgraphError
from ...graph.ir import Node
from ...graph.ops.fused import FUSED
from ...passes.fuse.fuse import Fuse
from ...passes.fuse.patterns import LOSS_AND_GRADIENT
from .kernels import kernel
from .limits import Limits
from .loss_step import loss_step
from .lowering import RULES
from .lowering.calls import Lowering
from .memory import Interval, live_lower_bound

_LOSS_GRAD = "linear_cross_entropy_grad"


def footprint_for(limits: Limits) -> Footprint:
    """The footprint of nodes on a device; what it finds for a kind of node, it keeps."""
    known: dict[object, int] = {}

    def workspace(node: Node) -> int:
        key = (node.op, node.attrs, *(value.type for value in node.inputs))
        if key not in known:
            fused = _with_its_loss(node) if node.op == _LOSS_GRAD else node
            known[key] = workspace_bytes(fused, limits)
        return known[key]

    return Footprint(workspace, frozenset(filter(_works_in_place, RULES)))


def _with_its_loss(node: Node) -> Node:
    """The fused node that the gradient of a step's loss becomes a part of, which needs more."""
    spread, _, h, table, labels, _ = node.inputs
    graph = loss_step(h.type, table.type, labels.type, spread.type)
    return Fuse(only=(LOSS_AND_GRADIENT.name,))(graph).nodes[0]


def workspace_bytes(node: Node, limits: Limits) -> int:
    """Bytes of scratch that a node's calls need at once; 0 for an op without a kernel."""
    if node.op not in RULES and node.op != FUSED:
        return 0
    lowering = Lowering(limits, {}, frozenset(), RULES)
    lowering.lower(node)
    known = {value.name for value in (*node.inputs, *node.outputs)}
    spans: dict[str, Interval] = {}
    for position, call in enumerate(lowering.calls):
        for value in (operand.part.value for operand in call.operands):
            if value.name not in known:
                begin = spans[value.name].begin if value.name in spans else position
                spans[value.name] = Interval(value.name, value.type.nbytes, begin, position)
    return live_lower_bound(list(spans.values()))


def _works_in_place(op: str) -> bool:
    """Whether the kernel of that name lets its result lie over an operand."""
    try:
        parameters = kernel(op).parameters
    except BitgraphError:  # its kernels have other names
        return False
    return any(parameter.over for parameter in parameters)
