"""The layers of a joint graph, as checkpointing sees them."""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cache

from ...graph.analysis import storage
from ...graph.ir import Graph, Node
from ...graph.ops import op_def
from ..fuse.elementwise import is_elementwise

RECOMPUTE = "recompute"
"""Component of the scope of nodes that compute something again."""

_LAYER = re.compile(r"(?:^|/)(layers\.\d+)(?:/|$)")


@dataclass(frozen=True)
class Layer:
    """The forward nodes of a layer, and what the backward pass asks of them.

    Values are told by the names of those in whose memory they lie: a view counts as what it views.

    Attributes:
        name: as in ``layers.3``.
        nodes: of the forward pass, in order.
        wanted: values of the layer that backward nodes of the layer read.
        kept: values of the layer that backward nodes outside of it read; they are always saved.
        held: values from elsewhere that are there in the backward pass anyway.
        free: positions of element-wise nodes whose operands backward reads anyway. To compute them
            again where these are read takes neither memory nor, once fused, time.
    """

    name: str
    nodes: tuple[Node, ...]
    wanted: frozenset[str]
    kept: frozenset[str]
    held: frozenset[str]
    free: frozenset[int] = frozenset()


@cache
def layer_of(scope: str) -> str:
    """``layers.3/mlp/grad`` -> ``layers.3``; empty outside of layers."""
    match = _LAYER.search(scope)
    return match[1] if match else ""


def is_recomputed(node: Node) -> bool:
    """Whether a node computes something again."""
    return RECOMPUTE in node.scope.split("/")


def is_view(node: Node) -> bool:
    """Whether a node only sees its operand's bytes under another type."""
    return op_def(node.op).view


def backward_nodes(graph: Graph) -> tuple[bool, ...]:
    """For each node whether it belongs to the backward pass or comes after it.

    These are the nodes with ``grad`` in their scope, all that depends on them, and what is
    recomputed for them.
    """
    late: set[str] = set()
    flags = []
    for node in graph.nodes:
        parts = node.scope.split("/")
        behind = "grad" in parts or is_recomputed(node) or any(v.name in late for v in node.inputs)
        flags.append(behind)
        if behind:
            late.update(value.name for value in node.outputs)
    return tuple(flags)


def find_layers(graph: Graph) -> tuple[Layer, ...]:
    """The layers that have forward nodes, in the order of their first node."""
    home = {name: value.name for name, value in storage(graph).items()}
    forward: dict[str, list[Node]] = {}
    readers: dict[str, set[str]] = {value.name: {""} for value in graph.outputs}
    for node, behind in zip(graph.nodes, backward_nodes(graph), strict=True):
        layer = layer_of(node.scope)
        if behind:
            for value in node.inputs:
                readers.setdefault(home[value.name], set()).add(layer)
        elif layer:
            forward.setdefault(layer, []).append(node)
    persistent = {i.value.name for i in graph.inputs}
    return tuple(
        _layer(name, tuple(nodes), home, readers, persistent) for name, nodes in forward.items()
    )


def _layer(
    name: str,
    nodes: tuple[Node, ...],
    home: Mapping[str, str],
    readers: Mapping[str, Set[str]],
    persistent: Set[str],
) -> Layer:
    made = {value.name for node in nodes for value in node.outputs}
    read = {home[value.name] for node in nodes for value in node.inputs} - made
    wanted = frozenset(value for value in made if readers.get(value) == {name})
    free = (
        position
        for position, node in enumerate(nodes)
        if is_elementwise(node)
        and node.outputs[0].name in wanted
        and all(home[v.name] in persistent or home[v.name] in readers for v in node.inputs)
    )
    return Layer(
        name,
        nodes,
        wanted,
        kept=frozenset(value for value in made if readers.get(value, {name}) != {name}),
        held=frozenset(value for value in read if value in persistent or value in readers),
        free=frozenset(free),
    )


def structure(layer: Layer) -> tuple[object, ...]:
    """What two layers have in common if they differ only in names."""
    number: dict[str, int] = {}
    rows: list[object] = []
    for node in layer.nodes:
        operands = tuple(
            number.get(v.name, (str(v.type), v.name in layer.held)) for v in node.inputs
        )
        for value in node.outputs:
            number[value.name] = len(number)
        results = tuple(
            (str(v.type), v.name in layer.wanted, v.name in layer.kept) for v in node.outputs
        )
        rows.append((node.op, repr(node.attrs), operands, results))
    return tuple(rows)
