"""The msgpack form of a graph: the same content as the text form."""

from itertools import islice
from operator import index
from typing import Any

import msgpack

from .ir import Alias, Attr, Graph, Input, Node, Role, Value
from .types import GraphError, parse_type

VERSION = 1


def pack_graph(graph: Graph) -> bytes:
    """Serialize. Every value is written once and referred to by its index."""
    values = [i.value for i in graph.inputs] + [v for n in graph.nodes for v in n.outputs]
    place = {value.name: k for k, value in enumerate(values)}
    document = {
        "format": "bitgraph",
        "version": VERSION,
        "name": graph.name,
        "values": [[v.name, str(v.type)] for v in values],
        "roles": [str(i.role) for i in graph.inputs],
        "nodes": [
            [
                node.op,
                [place[v.name] for v in node.inputs],
                len(node.outputs),
                [list(item) for item in node.attrs],
                node.scope,
            ]
            for node in graph.nodes
        ],
        "outputs": [place[v.name] for v in graph.outputs],
        "aliases": [[alias.output, alias.donated] for alias in graph.aliases],
    }
    packed: bytes = msgpack.packb(document)
    return packed


def unpack_graph(data: bytes) -> Graph:
    """Inverse of `pack_graph`.

    Raises:
        GraphError: the bytes are not a graph of this version.
    """
    try:
        document: dict[str, Any] = msgpack.unpackb(data)
        if document["format"] != "bitgraph" or document["version"] != VERSION:
            raise GraphError(f"not a bitgraph graph of version {VERSION}")
        return _graph(document)
    except GraphError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise GraphError(f"the bytes are not a graph in msgpack form ({error})") from None


def _graph(document: dict[str, Any]) -> Graph:
    values = [Value(_text(name), parse_type(_text(type))) for name, type in document["values"]]
    roles = document["roles"]
    inputs = tuple(
        Input(value, Role(role)) for value, role in zip(values[: len(roles)], roles, strict=True)
    )
    nodes, made = [], iter(values[len(roles) :])
    for op, operands, count, attrs, scope in document["nodes"]:
        outputs = tuple(islice(made, index(count)))
        pairs = tuple((_text(name), _attr(value)) for name, value in attrs)
        nodes.append(Node(_text(op), _pick(values, operands), outputs, pairs, _text(scope)))
    if any(made):
        raise ValueError("no node makes the last values")
    outputs = _pick(values, document["outputs"])
    aliases = tuple(Alias(_text(output), _text(old)) for output, old in document["aliases"])
    return Graph(_text(document["name"]), inputs, tuple(nodes), outputs, aliases)


def _pick(values: list[Value], indices: Any) -> tuple[Value, ...]:
    if not all(type(k) is int and 0 <= k < len(values) for k in indices):
        raise ValueError(f"{indices} are not indices of {len(values)} values")
    return tuple(values[k] for k in indices)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _attr(value: Any) -> Attr:
    if isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    if isinstance(value, int | float | str):
        return value
    raise TypeError(f"{value!r} is not an attribute")
