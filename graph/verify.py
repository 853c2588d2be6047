"""The verifier: everything that must hold of a graph."""

import re

from .ir import Graph, Node, Role, Value
from .ops import infer_types
from .text import NAME, SCOPE, format_node
from .types import GraphError

_NAME, _SCOPE = re.compile(NAME), re.compile(SCOPE)

_CONTEXT = 2
"""Lines shown before and after the one that is wrong."""


def verify(graph: Graph) -> None:
    """Check names, definitions, types, outputs and aliases.

    Raises:
        GraphError: with the offending line among its neighbours.
    """
    _expect_name(graph.name)
    defined: dict[str, Value] = {}
    for item in graph.inputs:
        _define(item.value, defined)
    for number, node in enumerate(graph.nodes):
        try:
            _verify_node(node, defined)
        except GraphError as error:
            raise GraphError(f"graph @{graph.name}: {error}\n{_around(graph, number)}") from None
    for value in graph.outputs:
        _expect_defined(value, defined)
    _verify_aliases(graph)


def _expect_name(name: str) -> None:
    """The text form can hold nothing else."""
    if _NAME.fullmatch(name) is None:
        raise GraphError(f"{name!r} is not a name: it takes letters, digits and any of _ . -")


def _define(value: Value, defined: dict[str, Value]) -> None:
    _expect_name(value.name)
    if value.name in defined:
        raise GraphError(f"{value} is defined twice")
    defined[value.name] = value


def _expect_defined(value: Value, defined: dict[str, Value]) -> None:
    known = defined.get(value.name)
    if known is None:
        raise GraphError(f"{value} is used before it is defined")
    if known is not value and known != value:
        raise GraphError(f"{value} is used as {value.type}, but it is {known.type}")


def _verify_node(node: Node, defined: dict[str, Value]) -> None:
    for value in node.inputs:
        _expect_defined(value, defined)
    if _SCOPE.fullmatch(node.scope) is None:
        raise GraphError(f"{node.scope!r} is not a scope such as layers.3/self_attn")
    names = [name for name, _ in node.attrs]
    if names != sorted(set(names)):
        raise GraphError("attributes are not in the order of their names, each once")
    inferred = infer_types(node.op, tuple(v.type for v in node.inputs), node.attributes)
    stated = tuple(v.type for v in node.outputs)
    if stated != inferred:
        raise GraphError(
            f"{node.op} gives {', '.join(map(str, inferred))}, "
            f"the graph says {', '.join(map(str, stated))}"
        )
    for value in node.outputs:
        _define(value, defined)


def _around(graph: Graph, number: int) -> str:
    begin = max(number - _CONTEXT, 0)
    lines = []
    for k, node in enumerate(graph.nodes[begin : number + _CONTEXT + 1], begin):
        lines.append(f"  {'>' if k == number else ' '} {format_node(node)}")
    return "\n".join(lines)


def _verify_aliases(graph: Graph) -> None:
    """A donated input has its type's output, is donated once, and is not read afterwards."""
    outputs = {value.name: value for value in graph.outputs}
    donors = {value.name: value for value in graph.inputs_of(Role.PARAM, Role.STATE)}
    made = {value.name: k for k, node in enumerate(graph.nodes) for value in node.outputs}
    read = {value.name: k for k, node in enumerate(graph.nodes) for value in node.inputs}
    seen: set[str] = set()
    for alias in graph.aliases:
        if alias.output not in outputs:
            raise GraphError(f"%{alias.output} takes %{alias.donated}'s place but is no output")
        if alias.donated not in donors:
            raise GraphError(f"%{alias.donated} is donated but is no param or state")
        if seen & {alias.output, alias.donated}:
            raise GraphError(f"%{alias.output} -> %{alias.donated} donates a second time")
        if outputs[alias.output].type != donors[alias.donated].type:
            raise GraphError(f"%{alias.output} and %{alias.donated} have different types")
        if read.get(alias.donated, -1) > made.get(alias.output, -1):
            raise GraphError(f"%{alias.donated} is read after %{alias.output} took its place")
        seen |= {alias.output, alias.donated}
