"""The graph builder."""

import pytest
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Alias, Role
from bitgraph.graph.types import GraphError, tensor
from bitgraph.graph.verify import verify
from graphs import read, training_graph


def test_a_graph_is_built_with_types_scopes_and_names() -> None:
    b = GraphBuilder("g")
    x = b.add_input("x", tensor("f32", 2, 4), Role.INPUT)
    p = b.add_input("p", tensor("f32", 2, 4), Role.PARAM)
    with b.scope("layers.0"):
        y = b.op("scale", x, factor=2.0, name="y")
        with b.scope("mlp"), b.prefix("tmp"):
            y = b.op("reshape", b.op("add", y, p), row=(2, 2))
            y = b.op("reshape", y, row=(4,))
    y = b.op("add", y, p)
    y = b.op("add", y, p)
    graph = b.finish((y,), (Alias(y.name, "p"),))
    verify(graph)
    assert graph == read(
        """
        graph @g {
          input %x: f32[2,4]
          param %p: f32[2,4]
          %y: f32[2,4] = scale(%x) {factor=2.0} @layers.0
          %tmp.1: f32[2,4] = add(%y, %p) @layers.0/mlp
          %tmp.2: f32[2,2,2] = reshape(%tmp.1) {row=(2, 2)} @layers.0/mlp
          %tmp.3: f32[2,4] = reshape(%tmp.2) {row=(4,)} @layers.0/mlp
          %add.1: f32[2,4] = add(%tmp.3, %p)
          %add.2: f32[2,4] = add(%add.1, %p)
          return %add.2 -> %p
        }
        """.replace("(4,)", "(4)")
    )


def test_generated_names_avoid_those_that_are_taken() -> None:
    b = GraphBuilder("g")
    x = b.add_input("add.1", tensor("f32", 1), Role.INPUT)
    b.add_input("add.3", tensor("f32", 1), Role.INPUT)
    assert [b.op("add", x, x).name for _ in range(3)] == ["add.2", "add.4", "add.5"]


def test_a_name_is_given_once() -> None:
    b = GraphBuilder("g")
    x = b.add_input("x", tensor("f32", 1), Role.INPUT)
    with pytest.raises(GraphError, match="%x is defined twice"):
        b.add_input("x", tensor("f32", 1), Role.INPUT)
    with pytest.raises(GraphError, match="%x is defined twice"):
        b.op("relu", x, name="x")


def test_operands_that_do_not_fit_leave_the_builder_as_it_was() -> None:
    b = GraphBuilder("g")
    x = b.add_input("x", tensor("f32", 1), Role.INPUT)
    y = b.add_input("y", tensor("f32", 2), Role.INPUT)
    with pytest.raises(
        GraphError, match=r"add\(f32\[1\], f32\[2\]\): f32\[2\] differs from f32\[1\]"
    ):
        b.op("add", x, y, name="z")
    with pytest.raises(GraphError, match="relu has 1 results, 2 names were given"):
        b.ops("relu", x, names=("a", "b"))
    assert b.nodes == []
    assert b.op("relu", x, name="z").name == "z"


def test_scopes_and_prefixes_end_with_an_error() -> None:
    b = GraphBuilder("g")
    x = b.add_input("x", tensor("f32", 1), Role.INPUT)
    with pytest.raises(GraphError), b.scope("s"), b.prefix("t"):
        b.op("nothing", x)
    assert b.op("relu", x).name == "relu.1"
    assert b.nodes[0].scope == ""


def test_extending_continues_a_graph() -> None:
    graph = training_graph(3)
    builder = GraphBuilder.extending(graph)
    assert builder.finish(graph.outputs, graph.aliases) == graph
    more = builder.op("add", graph.output("loss"), graph.output("loss"))
    assert more.name not in str(graph)
    extended = builder.finish((more,))
    assert extended.nodes[:-1] == graph.nodes
    verify(extended)


def test_what_was_inferred_once_is_not_taken_for_other_attributes() -> None:
    """1 equals True, and 2 equals 2.0, but the types of attributes are checked."""
    b = GraphBuilder("g")
    x = b.add_input("x", tensor("f32", 2, 4), Role.INPUT)
    w = b.add_input("w", tensor("f32", 2, 4), Role.INPUT)
    assert b.op("matmul", x, w, transpose_b=True).type == tensor("f32", 2, 2)
    with pytest.raises(GraphError, match="attribute transpose_b is 1"):
        b.op("matmul", x, w, transpose_b=1)
    assert b.op("scale", x, factor=2.0).type == x.type
    with pytest.raises(GraphError, match="attribute factor is 2"):
        b.op("scale", x, factor=2)


def test_an_input_is_declared_once() -> None:
    b = GraphBuilder("g")
    x = b.input_once("x", tensor("f32", 2), Role.WEIGHT)
    assert b.input_once("x", tensor("f32", 2), Role.WEIGHT) is not None
    assert len(b.inputs) == 1
    with pytest.raises(GraphError, match="defined twice"):
        b.input_once("x", tensor("f32", 2), Role.PARAM)
    with pytest.raises(GraphError, match="defined twice"):
        b.input_once("x", tensor("f32", 3), Role.WEIGHT)
    y = b.op("relu", x)
    with pytest.raises(GraphError, match="defined twice"):
        b.input_once(y.name, y.type, Role.WEIGHT)
