"""The msgpack form of a graph: the same content as the text form."""

from typing import Any

import msgpack

from .ir import Alias, Attr, Graph, Input, Node, Role, Value
from .types import GraphError, parse_type

VERSION = 1


def pack_graph(graph: Graph) -> bytes:
    """Serialize. Every value is written once and referred to by its index."""
    values = [i.value for i in graph.inputs] + [v for n in graph.nodes for v in n.outputs]
    index = {value.name: k for k, value in enumerate(values)}
    document = {
        "format": "bitgraph",
        "version": VERSION,
        "name": graph.name,
        "values": [[v.name, str(v.type)] for v in values],
        "roles": [str(i.role) for i in graph.inputs],
        "nodes": [
            [
                node.op,
                [index[v.name] for v in node.inputs],
                len(node.outputs),
                [list(item) for item in node.attrs],
                node.scope,
            ]
            for node in graph.nodes
        ],
        "outputs": [index[v.name] for v in graph.outputs],
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
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise GraphError(f"the bytes are not a graph in msgpack form ({error})") from None


def _graph(document: dict[str, Any]) -> Graph:
    values = [Value(str(name), parse_type(text)) for name, text in document["values"]]
    roles = document["roles"]
    inputs = tuple(
        Input(value, Role(role)) for value, role in zip(values[: len(roles)], roles, strict=True)
    )
    nodes, position = [], len(roles)
    for op, operands, count, attrs, scope in document["nodes"]:
        outputs = tuple(values[position : position + count])
        position += count
        pairs = tuple((str(name), _attr(value)) for name, value in attrs)
        nodes.append(Node(op, tuple(values[k] for k in operands), outputs, pairs, scope))
    outputs = tuple(values[k] for k in document["outputs"])
    aliases = tuple(Alias(output, donated) for output, donated in document["aliases"])
    return Graph(document["name"], inputs, tuple(nodes), outputs, aliases)


def _attr(value: Any) -> Attr:
    if isinstance(value, list):
        return tuple(int(item) for item in value)
    if isinstance(value, int | float | str):
        return value
    raise TypeError(f"{value!r} is not an attribute")
