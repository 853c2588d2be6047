"""What to save inside a layer: a minimum cut (Ford and Fulkerson, 1956) at a price.

A value that backward wants is saved, which takes its bytes, or recomputed from others, which takes
time. At a price of so many bytes for a second, the cheapest choice is a minimum cut of a network:

    source ──price·seconds──> node ──bytes──> value ──> sink       a value that backward wants
                               value ──> nodes that read it        a node runs if its operands exist

What ends up behind the cut exists in the backward pass. Cutting between a node and its result saves
the result; cutting before the node computes it again, so its operands must exist as well.
"""

from dataclasses import dataclass

from ...graph.ir import Node
from .costs import CostTable
from .layers import Layer, is_view

_PART = 1 << 20
"""Capacities are whole numbers: they count parts of a byte."""


@dataclass(frozen=True)
class Policy:
    """What a layer recomputes; the rest of what backward reads is saved.

    Attributes:
        recomputed: positions of nodes among the layer's.
        saved_bytes: of the values of the layer that are saved, and of those from elsewhere that are
            kept for it alone.
        seconds: that the recomputed nodes take.
    """

    recomputed: frozenset[int]
    saved_bytes: int
    seconds: float


def policies(layer: Layer, costs: CostTable) -> tuple[Policy, ...]:
    """Policies of a layer from the one that takes no time to the one that saves least.

    They are all that are cheapest at some price: the corners of the lower hull of bytes against
    seconds.
    """
    network = _Network(layer, costs)
    first, last = network.everything_saved(), network.cut(network.lowest_price)
    if last.saved_bytes >= first.saved_bytes:
        return (first,)
    return (first, *_between(network, first, last), last)


def _between(network: "_Network", dear: Policy, cheap: Policy) -> tuple[Policy, ...]:
    """The corners of the hull between two of them, in order."""
    seconds = cheap.seconds - dear.seconds
    if seconds <= 0:
        return ()
    price = (dear.saved_bytes - cheap.saved_bytes) / seconds
    found = network.cut(price)
    line = dear.saved_bytes + price * dear.seconds
    better = line - (found.saved_bytes + price * found.seconds)
    if better <= 1e-6 * line or found.saved_bytes in (dear.saved_bytes, cheap.saved_bytes):
        return ()
    return (*_between(network, dear, found), found, *_between(network, found, cheap))


class _Network:
    """The network of a layer, to be cut at several prices."""

    def __init__(self, layer: Layer, costs: CostTable) -> None:
        self._layer = layer
        self._seconds = [
            0.0 if is_view(node) or position in layer.free else costs.seconds(node)
            for position, node in enumerate(layer.nodes)
        ]
        self._home: dict[str, str] = {}
        self._maker: dict[str, int] = {}
        self._size: dict[str, int] = {}
        for position, node in enumerate(layer.nodes):
            for value in node.inputs:
                self._home.setdefault(value.name, value.name)
                self._size.setdefault(value.name, value.type.nbytes)
            for value in node.outputs:
                self._home[value.name] = self._root(node) if is_view(node) else value.name
                self._maker[value.name] = position
                self._size[value.name] = value.type.nbytes

    def _root(self, view: Node) -> str:
        return self._home[view.inputs[0].name]

    @property
    def lowest_price(self) -> float:
        """One at which all time together is worth less than a byte."""
        return 0.5 / max(sum(self._seconds), 1e-9)

    def everything_saved(self) -> Policy:
        """Nothing is recomputed that takes time."""
        return self._policy(self._layer.free)

    def cut(self, price: float) -> Policy:
        """The cheapest policy at a price in bytes for a second."""
        import networkx as nx  # slow to load, seldom needed

        layer, net = self._layer, nx.DiGraph()
        net.add_nodes_from(("source", "sink"))
        for position, node in enumerate(layer.nodes):
            if is_view(node):
                continue
            net.add_edge(
                "source", position, capacity=round(_PART * price * self._seconds[position])
            )
            for value in node.outputs:
                size = 0 if value.name in layer.kept else self._size[value.name]
                net.add_edge(position, value.name, capacity=_PART * size)
            for value in node.inputs:
                root = self._home[value.name]
                if root not in self._maker:
                    size = 0 if root in layer.held else self._size[root]
                    net.add_edge("source", root, capacity=_PART * size)
                net.add_edge(root, position)  # without a capacity: it cannot be cut
        net.add_edges_from((root, "sink") for root in layer.wanted)
        _, (_, behind) = nx.minimum_cut(net, "source", "sink")
        return self._policy(frozenset(k for k in behind if isinstance(k, int)))

    def _policy(self, behind: frozenset[int]) -> Policy:
        """The policy that recomputes those of some nodes that are needed."""
        layer = self._layer
        recomputed: set[int] = set()
        saved: set[str] = set()
        asked = sorted(layer.wanted)
        while asked:
            root = asked.pop()
            maker = self._maker.get(root)
            if root in saved or maker in recomputed:
                continue
            if maker in behind and root not in layer.kept:
                assert maker is not None
                recomputed.add(maker)
                asked += [self._home[value.name] for value in layer.nodes[maker].inputs]
            else:
                saved.add(root)
        seconds = sum(self._seconds[k] for k in recomputed)
        lost = {value.name for k in recomputed for value in layer.nodes[k].outputs}
        views = {
            k
            for k, n in enumerate(layer.nodes)
            if is_view(n) and self._home[n.outputs[0].name] in lost
        }
        paid = saved - layer.kept - layer.held
        return Policy(frozenset(recomputed | views), sum(self._size[v] for v in paid), seconds)
