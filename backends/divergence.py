"""Finds the first node whose result is wrong, by running a graph node by node in two ways.

A value may be off for two reasons: the node that makes it is wrong, or what the node was given was
off already. So every node runs twice in the second way: on the results that this way gave so far,
whose errors accumulate, and on the values of the first way, where all that differs is the node's
own. With int8 activations the second is the one to go by: a last bit flips a code, and the values
behind it drift apart although nothing is wrong.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..graph.analysis import all_values, last_uses
from ..graph.ir import Graph, Node
from ..graph.ops.fused import FUSED
from ..graph.program import Backend, Program
from ..graph.tensors import HostValue, Quantized, Ternary
from ..graph.types import GraphError
from ..graph.values import check_type
from .equivalence import op_graph, relative_error, tolerance_of

Runner: TypeAlias = Callable[[Node, tuple[HostValue, ...]], tuple[HostValue, ...]]
"""Runs one node on operands."""

RECOMPUTED = ".re"
"""Ends the names of values that are computed a second time."""


@dataclass(frozen=True)
class Way:
    """A graph and what runs its nodes."""

    graph: Graph
    run: Runner


@dataclass(frozen=True)
class Divergence:
    """A node whose results differ from those wanted.

    Attributes:
        position: of the node among those of the second graph, from 0.
        node: the node there.
        operands: what it was given.
        given: what came out.
        wanted: what should have; None for a result that the first graph does not have.
        worst: index of the result that is farthest off.
        error: of that result, as `relative_error` measures it.
        tolerance: how large it may be.
    """

    position: int
    node: Node
    operands: tuple[HostValue, ...]
    given: tuple[HostValue, ...]
    wanted: tuple[HostValue | None, ...]
    worst: int
    error: float
    tolerance: float


@dataclass(frozen=True)
class Report:
    """What a comparison found.

    Attributes:
        compared: values of the second graph that the first one has too.
        wrong: the first node that is off on equal operands.
        wrong_ops: how many nodes of each op, or pattern of fused nodes, are.
        drifted: the first node that is off with all errors before it.
        outputs: what the second graph gives, node by node.
    """

    compared: int
    wrong: Divergence | None
    wrong_ops: dict[str, int]
    drifted: Divergence | None
    outputs: dict[str, HostValue]


@dataclass(frozen=True)
class _Check:
    """What is known of one node: how many results had a partner, and what is off."""

    node: Node
    compared: int
    wrong: Divergence | None
    drifted: Divergence | None


def on_backend(backend: Backend) -> Runner:
    """Runs nodes on a backend, each as a graph of its own, compiled once for all like it."""
    programs: dict[Graph, Program] = {}

    def run(node: Node, operands: tuple[HostValue, ...]) -> tuple[HostValue, ...]:
        graph = node_graph(node)
        names = (item.value.name for item in graph.inputs)
        backend.load(dict(zip(names, operands, strict=True)))
        if graph not in programs:
            programs[graph] = backend.compile(graph)
        results = programs[graph].run({})
        return tuple(results[value.name] for value in graph.outputs)

    return run


def node_graph(node: Node) -> Graph:
    """A node as a graph of its own; its operands are states named x0, x1, ..."""
    return op_graph(node.op, tuple(value.type for value in node.inputs), node.attributes)


def kind_of(node: Node) -> str:
    """The op of a node, and the pattern of one that is fused."""
    return f"{FUSED} {node.attributes['pattern']}" if node.op == FUSED else node.op


def compare(
    first: Way, second: Way, values: Mapping[str, HostValue], exact: bool = False
) -> Report:
    """Compare all values that two graphs have in common.

    Args:
        first: whose values are right.
        second: what is in doubt: the same graph run elsewhere, or what a pass made of it.
        values: one for each input of both graphs.
        exact: allow no difference at all.

    Raises:
        GraphError: a value is missing or does not have its type, or a node cannot be run.
    """
    for item in (*first.graph.inputs, *second.graph.inputs):
        if item.value.name not in values:
            raise GraphError(f"no value is given for the input {item.value}")
        check_type(item.value.name, item.value.type, values[item.value.name])
    compared, wrong, drifted = 0, None, None
    wrong_ops: Counter[str] = Counter()
    own = dict(values)
    for check in _each_node(first, second, own, exact):
        compared += check.compared
        wrong_ops[kind_of(check.node)] += check.wrong is not None
        wrong, drifted = wrong or check.wrong, drifted or check.drifted
    outputs = {value.name: own[value.name] for value in second.graph.outputs}
    return Report(compared, wrong, dict(+wrong_ops), drifted, outputs)


def _each_node(first: Way, second: Way, own: dict[str, HostValue], exact: bool) -> Iterator[_Check]:
    """Compare the results of each node of the second graph.

    Args:
        first: whose values are right.
        second: what is in doubt.
        own: a value for each input of both graphs; results of the second are added, with all
            their errors, and dropped again after their last use.
        exact: allow no difference.
    """
    partners = partners_of(first.graph, second.graph)
    reference = _Reference(first, own, _last_asked(second.graph, partners))
    forced = dict(own)  # the values of the first graph, results of the second where it has none
    allowed: dict[str, float] = {}  # errors of an operand and of the node add up
    for position, (node, dying) in enumerate(
        zip(second.graph.nodes, last_uses(second.graph), strict=True)
    ):
        tolerance = 0.0 if exact else tolerance_of(node)
        for value in node.inputs:
            if value.name in partners:
                forced[value.name] = reference.value(partners[value.name])
        equal = tuple(forced[value.name] for value in node.inputs)
        drifting = tuple(own[value.name] for value in node.inputs)
        results = second.run(node, equal)
        drifted = results if _same(equal, drifting) else second.run(node, drifting)
        wanted = tuple(
            reference.value(partners[value.name]) if value.name in partners else None
            for value in node.outputs
        )
        total = tolerance + max((allowed.get(v.name, 0.0) for v in node.inputs), default=0.0)
        allowed.update({value.name: total for value in node.outputs})
        yield _Check(
            node,
            sum(value is not None for value in wanted),
            _divergence(position, node, equal, results, wanted, tolerance),
            _divergence(position, node, drifting, drifted, wanted, total),
        )
        for value, result, off in zip(node.outputs, results, drifted, strict=True):
            forced[value.name], own[value.name] = result, off
        for name in dying:
            del own[name], forced[name]
        reference.asked(position)


class _Reference:
    """The first graph, run as far as it is asked for.

    A value is kept while a node of either graph still wants it.
    """

    def __init__(
        self, way: Way, values: Mapping[str, HostValue], last_asked: Mapping[str, int]
    ) -> None:
        self._way = way
        self._values = dict(values)
        self._dying = last_uses(way.graph)
        self._next = 0
        self._wanted = set(last_asked)
        self._read = {value.name for node in way.graph.nodes for value in node.inputs}
        self._asked: dict[int, list[str]] = {}
        for name, position in last_asked.items():
            self._asked.setdefault(position, []).append(name)

    def value(self, name: str) -> HostValue:
        """The value of that name."""
        while name not in self._values:
            self._step()
        return self._values[name]

    def asked(self, position: int) -> None:
        """Forget what no node of the second graph behind this one asks for."""
        for name in self._asked.get(position, ()):
            self._wanted.discard(name)
            self._drop(name)

    def _step(self) -> None:
        node = self._way.graph.nodes[self._next]
        results = self._way.run(node, tuple(self._values[v.name] for v in node.inputs))
        self._values.update(zip((v.name for v in node.outputs), results, strict=True))
        for name in self._dying[self._next]:
            self._read.discard(name)
            self._drop(name)
        self._next += 1

    def _drop(self, name: str) -> None:
        if name not in self._wanted and name not in self._read:
            self._values.pop(name, None)


def partners_of(first: Graph, second: Graph) -> dict[str, str]:
    """For each value of the second graph the value of the first that it must equal.

    They have one name and one type; a value that is computed again stands for the first.
    """
    types = {value.name: value.type for value in all_values(first)}
    partners = {}
    for value in all_values(second):
        name = value.name
        while name not in types and name.endswith(RECOMPUTED):
            name = name.removesuffix(RECOMPUTED)
        if types.get(name) == value.type:
            partners[value.name] = name
    return partners


def _last_asked(second: Graph, partners: Mapping[str, str]) -> dict[str, int]:
    """For each value of the first graph the last node of the second that asks for it."""
    last: dict[str, int] = {}
    for position, node in enumerate(second.nodes):
        for value in (*node.inputs, *node.outputs):
            if value.name in partners:
                last[partners[value.name]] = position
    return last


def _divergence(
    position: int,
    node: Node,
    operands: tuple[HostValue, ...],
    given: tuple[HostValue, ...],
    wanted: tuple[HostValue | None, ...],
    tolerance: float,
) -> Divergence | None:
    errors = [
        0.0 if right is None else relative_error(result, right)
        for result, right in zip(given, wanted, strict=True)
    ]
    worst = int(np.argmax(errors))
    if errors[worst] <= tolerance:
        return None
    return Divergence(position, node, operands, given, wanted, worst, errors[worst], tolerance)


def _same(first: Sequence[HostValue], second: Sequence[HostValue]) -> bool:
    """Whether operands are equal, so that a node need not run again."""
    return all(a is b or _equal(a, b) for a, b in zip(first, second, strict=True))


def _equal(a: HostValue, b: HostValue) -> bool:
    if isinstance(a, Quantized) and isinstance(b, Quantized):
        return np.array_equal(a.codes, b.codes) and np.array_equal(a.scale, b.scale)
    if isinstance(a, Ternary) or isinstance(b, Ternary):
        return False
    return np.array_equal(np.asarray(a), np.asarray(b))
