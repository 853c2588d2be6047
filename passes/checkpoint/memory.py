"""How much memory policies take: measured on graphs rewritten with them.

Nothing is modelled that can be counted. For each number k every layer takes its k-th policy, and
the bytes alive at every node are taken apart into what the other layers have saved and the rest.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...graph.analysis import Footprint, lifetimes, live_bytes
from ...graph.ir import Graph
from .choice import GRAIN, Choices, Moment
from .cut import Policy
from .layers import Layer, backward_nodes, layer_of
from .rewrite import rematerialize

Bytes: TypeAlias = npt.NDArray[np.int64]


def rewritten(graph: Graph, layers: Sequence[Layer], chosen: Sequence[Policy]) -> Graph:
    """The graph in which each layer follows a policy."""
    names = {
        value.name
        for layer, policy in zip(layers, chosen, strict=True)
        for position in policy.recomputed
        for value in layer.nodes[position].outputs
    }
    return rematerialize(graph, names)


def measure(
    graph: Graph,
    layers: Sequence[Layer],
    offered: Sequence[Sequence[Policy]],
    footprint: Footprint,
) -> Choices:
    """What the layers' policies save, take and cost."""
    numbers = {layer.name: k for k, layer in enumerate(layers)}
    saved: list[list[int]] = [[] for _ in layers]
    own: dict[tuple[int | None, frozenset[int]], dict[int, int]] = {}
    for number in range(max(map(len, offered), default=0)):
        chosen = [each[min(number, len(each) - 1)] for each in offered]
        trial = rewritten(graph, layers, chosen)
        by_layer = saved_bytes(trial, numbers)
        for k, each in enumerate(offered):
            if number < len(each):
                saved[k].append(int(by_layer[k].max(initial=0)))
        for key, worst in _moments(
            trial, numbers, by_layer, live_bytes(trial, footprint, GRAIN)
        ).items():
            layer = key[0]
            if layer is None or number < len(offered[layer]):
                own.setdefault(key, {})[number] = worst
    moments = tuple(
        Moment(
            layer,
            alive,
            (max(found.values()),)
            if layer is None
            else tuple(found.get(k, 0) for k in range(len(offered[layer]))),
        )
        for (layer, alive), found in own.items()
    )
    seconds = tuple(tuple(policy.seconds for policy in each) for each in offered)
    return Choices(seconds, tuple(map(tuple, saved)), moments)


def saved_bytes(graph: Graph, numbers: Mapping[str, int]) -> Bytes:
    """Bytes of each layer's saved values alive at each node, [layers, nodes].

    A saved value is made by a forward node and read by a backward one. It belongs to the layer
    that makes it, or else to the one that reads it last.
    """
    backward = backward_nodes(graph)
    change = np.zeros((len(numbers), len(graph.nodes) + 1), dtype=np.int64)
    for life in lifetimes(graph):
        if backward[life.begin] or not backward[life.end]:
            continue
        scopes = (graph.nodes[life.begin].scope, graph.nodes[life.end].scope)
        owner = next((numbers[name] for name in map(layer_of, scopes) if name in numbers), None)
        if owner is not None:
            size = -(-life.value.type.nbytes // GRAIN) * GRAIN
            change[owner, life.begin] += size
            change[owner, life.end + 1] -= size
    return np.cumsum(change, axis=1)[:, :-1]


def _moments(
    graph: Graph, numbers: Mapping[str, int], saved: Bytes, alive: Bytes
) -> dict[tuple[int | None, frozenset[int]], int]:
    """By layer at work and other layers alive, the most bytes that are not the others' savings."""
    others = saved.copy()
    at_work = [numbers.get(layer_of(node.scope)) for node in graph.nodes]
    for position, layer in enumerate(at_work):
        if layer is not None:
            others[layer, position] = 0
    rest = alive - others.sum(axis=0)
    worst: dict[tuple[int | None, frozenset[int]], int] = {}
    for position, layer in enumerate(at_work):
        key = layer, frozenset(np.flatnonzero(others[:, position]).tolist())
        worst[key] = max(worst.get(key, 0), int(rest[position]))
    return worst
