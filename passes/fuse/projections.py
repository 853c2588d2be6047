"""Groups of few rows, as in decoding: all projections of one x, with what follows each of them.

Few rows are no work; what takes time is that one kernel waits for another. So a group takes

- the ternary products of the same codes, each with what its adapter adds, a residual, a rotation,
  and the write into a key-value cache;
- for two of them ``act(x W0) * (x W1)``;
- the norm whose codes these are, and the narrow products of its adapters; of several rows not
  without such.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...graph.ir import Node, Value
from ...graph.types import DType
from .products import MOST_MEMBERS, Low, low_of, only_user, with_sums
from .view import View

FEW_ROWS = 8
"""Rows up to which a product is a matter of reading the weights once."""

_ACTIVATIONS = ("squared_relu", "silu")


@dataclass(frozen=True)
class Branch:
    """A product and what follows it in a group.

    Attributes:
        nodes: all of it, in order; the last gives the result.
        product: the first of them.
        up: the product of the adapter's part, ``low B^T``.
        added: the residual.
        rope: the rotation.
        kept: the write into a cache.
    """

    nodes: tuple[Node, ...]
    up: Node | None = None
    added: Value | None = None
    rope: Node | None = None
    kept: Node | None = None

    @property
    def product(self) -> Node:
        """The ternary product."""
        return self.nodes[0]

    @property
    def rank(self) -> int:
        """The adapter's rank, 0 if there is none."""
        return 0 if self.up is None else self.up.inputs[0].type.shape[1]

    @property
    def result(self) -> Value:
        """What it gives."""
        return self.nodes[-1].outputs[0]


@dataclass(frozen=True)
class Gate:
    """``act(gate) * up`` of the results of two branches."""

    nodes: tuple[Node, Node]
    gate: Branch
    up: Branch


@dataclass(frozen=True)
class Projected:
    """The parts of a group.

    Attributes:
        norm: the nodes ``rms_norm`` and ``quantize``, if the group has them.
        lows: the narrow products of the norm.
        branches: one for each product.
        gate: where there is one, its branches are all there are.
    """

    norm: tuple[Node, Node] | None
    lows: tuple[Low, ...]
    branches: tuple[Branch, ...]
    gate: Gate | None

    def nodes(self, made: Mapping[str, Node]) -> Iterator[Node]:
        """All of them, given the node that makes each value."""
        yield from self.norm or ()
        for low in self.lows:
            yield from (low.product, made[low.result.name])
        for branch in self.branches:
            yield from branch.nodes
        yield from () if self.gate is None else self.gate.nodes


class Projections:
    """Products of few rows of the same codes; see above."""

    name = "projections"

    def find(self, view: View) -> Iterator[tuple[Node, ...]]:
        """One group for each codes, unless it would be a single product without a norm."""
        products: dict[Value, list[Node]] = {}
        for node in view.graph.nodes:
            if _is_of_few_rows(node):
                products.setdefault(node.inputs[0], []).append(node)
        for codes, some in products.items():
            if len(some) > MOST_MEMBERS:
                continue
            group = projected(view, codes, some)
            if group.norm is not None or len(some) > 1:
                yield tuple(group.nodes(view.producers))


def projected(view: View, codes: Value, products: Iterable[Node]) -> Projected:
    """What belongs to some products of the same codes."""
    branches = tuple(_branch(view, product) for product in products)
    gate = _gate(view, branches)
    quantize = view.producers.get(codes.name)
    if quantize is None or len(view.users[codes.name]) > len(branches):
        return Projected(None, (), branches, gate)
    norm = view.producers.get(quantize.inputs[0].name)
    if norm is None or norm.op != "rms_norm" or codes.name in view.returned:
        return Projected(None, (), branches, gate)
    lows = _lows(view, norm, quantize, branches)
    if lows is None or (codes.type.shape[0] > 1 and not lows):
        return Projected(None, (), branches, gate)
    return Projected((norm, quantize), lows, branches, gate)


def _is_of_few_rows(node: Node) -> bool:
    if node.op != "ternary_matmul":
        return False
    x, w = (value.type for value in node.inputs)
    return x.dtype is DType.Q8 and w.dtype is DType.T2 and x.shape[0] <= FEW_ROWS


def _branch(view: View, product: Node) -> Branch:
    nodes = tuple(with_sums(view, product))
    made = {value.name: node for node in nodes for value in node.outputs}
    up = next((node for node in nodes if node.op == "matmul"), None)
    summed = (value for node in nodes if node.op == "add" for value in node.inputs)
    added = next((value for value in summed if value.name not in made), None)
    rope = kept = None
    if added is None and (heads := _user_of_kind(view, nodes[-1], "reshape")) is not None:
        last = heads
        rope = _user_of_kind(view, heads, "rope")
        if (
            rope is not None
            and rope.inputs[0] == heads.outputs[0]
            and not rope.attributes["inverse"]
        ):
            last = rope
        else:
            rope = None
        kept = _user_of_kind(view, last, "write_rows")
        if kept is not None and kept.inputs[1] != last.outputs[0]:
            kept = None
        if rope is not None or kept is not None:
            nodes += tuple(node for node in (heads, rope, kept) if node is not None)
    return Branch(nodes, up, added, rope, kept)


def _user_of_kind(view: View, node: Node, op: str) -> Node | None:
    user = only_user(view, node)
    return user if user is not None and user.op == op else None


def _gate(view: View, branches: tuple[Branch, ...]) -> Gate | None:
    if len(branches) != 2:
        return None
    for gate, up in (branches, branches[::-1]):
        active = only_user(view, gate.nodes[-1])
        if active is None or active.op not in _ACTIVATIONS:
            continue
        gated = _user_of_kind(view, active, "mul")
        plain = all(b.added is None and b.rope is None and b.kept is None for b in branches)
        if plain and gated is not None and only_user(view, up.nodes[-1]) is gated:
            return Gate((active, gated), gate, up)
    return None


def _lows(
    view: View, norm: Node, quantize: Node, branches: tuple[Branch, ...]
) -> tuple[Low, ...] | None:
    """The narrow products of a norm, or None if something else reads what belongs to the group."""
    (normed,) = norm.outputs
    ups = [branch.up for branch in branches if branch.up is not None]
    lows: list[Low] = []
    for user in view.users[normed.name]:
        if user is quantize:
            continue
        scale = only_user(view, user) if user.op == "matmul" else None
        low = None if scale is None else low_of(scale, view.producers)
        if scale is None or low is None or low.x != normed:
            return None
        if all(only_user(view, scale) is not up for up in ups):
            return None
        lows.append(low)
    return None if normed.name in view.returned else tuple(lows)
