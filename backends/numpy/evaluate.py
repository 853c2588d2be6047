"""The meaning of a graph: its nodes, one after the other."""

import time
from collections.abc import Iterator, Mapping

import numpy as np

from ...graph.analysis import last_uses
from ...graph.ir import Graph, Node, Value
from ...graph.ops import op_def
from ...graph.tensors import HostValue
from ...graph.types import GraphError
from ...graph.values import check_type


def evaluate(graph: Graph, values: Mapping[str, HostValue]) -> dict[str, HostValue]:
    """Run a graph in order, checking the type of every input and result.

    Args:
        graph: verified.
        values: one for each of the graph's inputs.

    Returns:
        The outputs by name.

    Raises:
        GraphError: a value is missing or does not have its type.
    """
    environment = dict(values)
    for _ in each_result(graph, environment):
        pass
    return {value.name: environment[value.name] for value in graph.outputs}


def each_result(
    graph: Graph, environment: dict[str, HostValue]
) -> Iterator[tuple[Node, Value, HostValue]]:
    """Run a graph in order, and yield every node's results as soon as they are there.

    Args:
        graph: verified.
        environment: holds a value for each of the graph's inputs; results are added, and dropped
            again after their last use.

    Raises:
        GraphError: as in `evaluate`.
    """
    for item in graph.inputs:
        if item.value.name not in environment:
            raise GraphError(f"no value is given for the input {item.value}")
        check_type(item.value.name, item.value.type, environment[item.value.name])
    for node, dying in zip(graph.nodes, last_uses(graph), strict=True):
        results = apply(node, tuple(environment[v.name] for v in node.inputs))
        for value, result in zip(node.outputs, results, strict=True):
            check_type(value.name, value.type, result)
            environment[value.name] = result
            yield node, value, result
        for name in dying:
            del environment[name]


def time_nodes(graph: Graph, values: Mapping[str, HostValue], runs: int) -> dict[str, float]:
    """Seconds of each node by the name of its first result, the least of several runs."""
    seconds: dict[str, float] = {}
    for _ in range(runs):
        environment = dict(values)
        for node, dying in zip(graph.nodes, last_uses(graph), strict=True):
            operands = tuple(environment[value.name] for value in node.inputs)
            begin = time.perf_counter()
            results = apply(node, operands)
            taken = time.perf_counter() - begin
            environment.update(zip((v.name for v in node.outputs), results, strict=True))
            name = node.outputs[0].name
            seconds[name] = min(taken, seconds.get(name, taken))
            for dead in dying:
                del environment[dead]
    return seconds


def apply(node: Node, operands: tuple[HostValue, ...]) -> tuple[HostValue, ...]:
    """What a node's op gives for these operands."""
    results = op_def(node.op).eval(*operands, **node.attributes)
    results = results if isinstance(results, tuple) else (results,)
    # arithmetic on arrays of rank 0 gives NumPy scalars
    return tuple(np.asarray(r) if isinstance(r, np.generic) else r for r in results)
