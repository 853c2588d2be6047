"""The msgpack form: it loses nothing and believes nothing."""

from typing import Any

import msgpack
import pytest
from bitgraph.graph.binary import pack_graph, unpack_graph
from bitgraph.graph.ir import Graph
from bitgraph.graph.text import parse_graph
from bitgraph.graph.types import GraphError
from bitgraph.graph.verify import verify
from graphs import all_graphs, staged
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL = parse_graph(
    """
    graph @m {
      input %x: f32[4,16]
      param %p: f32[4,16]
      %a: f32[4,16] = scale(%x) {factor=0.5} @s/t
      %b: f32[4,2,8] = reshape(%a) {row=(2, 8)}
      %c: f32[4,16] = add(%a, %p)
      return %b, %c -> %p
    }
    """
)


@pytest.mark.parametrize("graph", all_graphs().values(), ids=list(all_graphs()))
def test_unpacking_gives_the_graph_back(graph: Graph) -> None:
    back = unpack_graph(pack_graph(graph))
    assert back == graph
    assert str(back) == str(graph)
    assert pack_graph(back) == pack_graph(graph)


def test_the_packed_form_is_smaller_than_the_text() -> None:
    graph = staged("lora,grad,adamw")["3-adamw"]
    assert len(pack_graph(graph)) < 0.8 * len(str(graph))


def document(**changes: Any) -> bytes:
    """The packed form of SMALL with some fields replaced."""
    packed: bytes = msgpack.packb({**msgpack.unpackb(pack_graph(SMALL)), **changes})
    return packed


NODE = ["scale", [0], 1, [["factor", 0.5]], "s/t"]


def node(position: int, value: Any) -> list[Any]:
    """The nodes of SMALL with one field of the first replaced."""
    nodes = msgpack.unpackb(pack_graph(SMALL))["nodes"]
    assert nodes[0] == NODE
    nodes[0][position] = value
    return [*nodes]


def test_an_unchanged_document_is_read() -> None:
    assert unpack_graph(document()) == SMALL


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "safetensors"},
        {"version": 2},
        {"name": 3},
        {"values": []},
        {"values": [["x", "f32[1]", "more"]]},
        {"values": [["x", 5]]},
        {"values": "xyz"},
        {"roles": ["input", "guest"]},
        {"roles": ["input"] * 9},
        {"roles": 2},
        {"roles": ["input"]},
        {"nodes": [[]]},
        {"nodes": node(0, 7)},
        {"nodes": node(1, [99])},
        {"nodes": node(1, [-1])},
        {"nodes": node(1, [0.0])},
        {"nodes": node(1, [True])},
        {"nodes": node(1, None)},
        {"nodes": node(2, 2**40)},
        {"nodes": node(2, 0)},
        {"nodes": node(2, -1)},
        {"nodes": node(2, None)},
        {"nodes": node(3, [["factor"]])},
        {"nodes": node(3, [["factor", None]])},
        {"nodes": node(3, [["factor", ["2"]]])},
        {"nodes": node(3, [["factor", {"a": 1}]])},
        {"nodes": node(3, [[["factor"], 1]])},
        {"nodes": node(4, ["scope"])},
        {"outputs": [17]},
        {"outputs": None},
        {"aliases": [["c"]]},
        {"aliases": [["c", 1]]},
        {"aliases": [[["c"], "p"]]},
    ],
    ids=str,
)
def test_a_wrong_field_is_refused(changes: dict[str, Any]) -> None:
    """Or, where the document is one of a graph, that graph does not verify."""
    with pytest.raises(GraphError):
        verify(unpack_graph(document(**changes)))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x80", b"\x90", b"\xc0", b"\x05", pack_graph(SMALL)[:-1], b"graph @m {"],
)
def test_what_is_not_a_packed_graph(data: bytes) -> None:
    with pytest.raises(GraphError, match="not a"):
        unpack_graph(data)


def test_bytes_behind_the_graph_are_refused() -> None:
    with pytest.raises(GraphError, match="extra data"):
        unpack_graph(pack_graph(SMALL) + b"\x00")


@pytest.mark.parametrize("key", ["format", "version", "name", "values", "nodes", "aliases"])
def test_a_missing_field_is_refused(key: str) -> None:
    fields = msgpack.unpackb(pack_graph(SMALL))
    del fields[key]
    with pytest.raises(GraphError, match=f"not a graph in msgpack form \\('{key}'\\)"):
        unpack_graph(msgpack.packb(fields))


def survives(data: bytes) -> None:
    """Refused with a message, or a graph that keeps its packed form and can be verified."""
    try:
        graph = unpack_graph(data)
    except GraphError:
        return
    assert unpack_graph(pack_graph(graph)) == graph
    try:
        verify(graph)
    except GraphError:
        return
    assert parse_graph(str(graph)) == graph


@settings(max_examples=500, derandomize=True, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_read(data: st.DataObject) -> None:
    packed = bytearray(pack_graph(SMALL))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(packed) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "cut", "insert"]))
        if kind == "flip":
            packed[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            packed[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del packed[place : place + data.draw(st.integers(1, 4))]
        else:
            packed[place:place] = data.draw(st.binary(min_size=1, max_size=4))
    survives(bytes(packed))


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=4),
        st.binary(max_size=2),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.sampled_from(["name", "values", "roles", "nodes", "outputs", "aliases"]), JSON)
def test_any_content_of_a_field_is_refused_or_read(key: str, content: Any) -> None:
    survives(document(**{key: content}))


@settings(max_examples=100, derandomize=True, deadline=None)
@given(JSON)
def test_any_document_is_refused(content: Any) -> None:
    with pytest.raises(GraphError):
        unpack_graph(msgpack.packb(content))
