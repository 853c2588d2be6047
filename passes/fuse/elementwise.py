"""Chains of element-wise nodes: connected, of one type, and free of detours through other nodes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...graph.ir import Node
from ...graph.types import TensorType
from .view import View, fits, key

OPS = frozenset(
    {"add", "sub", "mul", "scale", "mul_scalar", "full_like"}
    | {"relu", "squared_relu", "silu", "silu_slope"}
)
"""Ops that a chain is made of: each element of the result depends on one of each operand."""


@dataclass(frozen=True)
class ElementwiseChains:
    """A row of the table that is found by growing: a node joins the groups that it reads from."""

    name: str

    def find(self, view: View) -> Iterator[tuple[Node, ...]]:
        """Groups of two nodes or more."""
        growth = _Growth(view)
        for node in view.graph.nodes:
            growth.add(node)
        for group in growth.groups():
            if len(group.nodes) > 1:
                yield tuple(group.nodes)


@dataclass(eq=False)
class _Group:
    """Nodes that become one.

    Sets of groups are the bits of numbers: `bits` are those of this group and of all that were
    merged into it, `needs` are those of the groups that it depends on.
    """

    type: TensorType
    bits: int
    nodes: list[Node] = field(default_factory=list)
    needs: int = 0


class _Growth:
    def __init__(self, view: View) -> None:
        self._view = view
        self._count = 0
        self._group_of: dict[str, _Group] = {}
        self._through: dict[str, int] = {}
        """For each value the groups that it depends on without being in them."""

    def groups(self) -> list[_Group]:
        return list(dict.fromkeys(self._group_of.values()))

    def add(self, node: Node) -> None:
        """Let a node join, or begin a group; all that it reads was added before."""
        read = list(dict.fromkeys(g for v in node.inputs if (g := self._group_of.get(v.name))))
        through = 0
        for value in node.inputs:
            through |= self._through.get(value.name, 0)
        own = self._join(node, read, through) if is_elementwise(node) else None
        for group in read:
            if group is not own:
                through |= group.bits
        if own is not None:
            through &= ~own.bits
            own.needs |= through
        for value in node.outputs:
            self._through[value.name] = through

    def _join(self, node: Node, read: list[_Group], through: int) -> _Group:
        """The group that a node is in now: all that it reads from, as far as they may be one."""
        own = _Group(node.outputs[0].type, 1 << self._count, [node])
        self._count += 1
        for group in read:
            detour = (through | own.needs) & group.bits or group.needs & own.bits
            together = (*group.nodes, *own.nodes)
            if group.type == own.type and not detour and fits(self._view, together):
                own = _Group(own.type, own.bits | group.bits, list(together))
                own.needs |= group.needs
        for member in own.nodes:
            self._group_of[key(member)] = own
        return own


def is_elementwise(node: Node) -> bool:
    """Whether a node may be part of a chain: its tensors all have the type of its result."""
    tensors = node.inputs[:1] if node.op == "mul_scalar" else node.inputs
    return node.op in OPS and all(value.type == node.outputs[0].type for value in tensors)
