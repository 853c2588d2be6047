"""Fusion: what is found, what forbids it, and that nothing changes by it."""

from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.binary import pack_graph, unpack_graph
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Alias, Graph, Node, Role
from bitgraph.graph.ops.fused import FUSED, body_of
from bitgraph.graph.rewrite import expand_fused, rename
from bitgraph.graph.text import parse_graph
from bitgraph.graph.types import GraphError, tensor
from bitgraph.graph.verify import verify
from bitgraph.passes.fuse.fuse import Fuse
from bitgraph.passes.fuse.group import fuse_nodes
from bitgraph.passes.fuse.pattern import Pattern
from bitgraph.passes.fuse.patterns import ROW_PATTERNS
from bitgraph.passes.fuse.view import View
from graphs import all_graphs, read
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import assert_same_bits

NORM = """
graph @g {
  input %x: f32[4,16]
  input %w: f32[16]
  input %up: t2[8,16]
  %n: f32[4,16] = rms_norm(%x, %w) {eps=1e-05} @layers.0
  %q: q8[4,16] = quantize(%n) @layers.0/mlp
  %y: f32[4,8] = ternary_matmul(%q, %up)
  return %y
}
"""


def fused_nodes(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == FUSED]


def test_a_fused_node_reads_and_gives_what_its_group_did() -> None:
    graph = Fuse(only=("norm_quantize",))(read(NORM))
    verify(graph)
    (node,) = fused_nodes(graph)
    assert [value.name for value in node.inputs] == ["x", "w"]
    assert [value.name for value in node.outputs] == ["q"]
    assert node.scope == "layers.0/mlp"
    assert node.attributes["pattern"] == "norm_quantize"
    assert str(body_of(node)) == (
        "graph @fused {\n"
        "  input %x: f32[4,16]\n"
        "  input %w: f32[16]\n"
        "  %n: f32[4,16] = rms_norm(%x, %w) {eps=1e-05} @layers.0\n"
        "  %q: q8[4,16] = quantize(%n) @layers.0/mlp\n"
        "  return %q\n"
        "}\n"
    )


def test_a_value_that_is_needed_outside_becomes_a_result() -> None:
    graph = read(NORM.replace("return %y", "return %y, %n"))
    (node,) = fused_nodes(Fuse(only=("norm_quantize",))(graph))
    assert [value.name for value in node.outputs] == ["n", "q"]


def test_a_pattern_says_what_may_be_needed_outside() -> None:
    (text,) = (row.text for row in ROW_PATTERNS if row.name == "norm_quantize")
    closed = Pattern("closed", text)
    assert len(list(closed.find(View.of(read(NORM))))) == 1
    assert not list(closed.find(View.of(read(NORM.replace("return %y", "return %y, %n")))))


def test_names_of_a_pattern_stand_for_values() -> None:
    graph = read(
        """
        graph @g {
          input %a: f32[4]
          input %b: f32[4]
          %c: f32[4] = mul(%a, %b)
          %d: f32[4] = add(%b, %c)
          return %d
        }
        """
    )
    view = View.of(graph)
    either = Pattern("p", "t = mul|sub(x, y)\nu = add(t, y)")
    (group,) = either.find(view)  # the operands of add stand the other way round
    (node,) = fuse_nodes(graph, "p", [n.outputs[0].name for n in group]).nodes
    match = either.bind(node)
    assert {name: value.name for name, value in match.values.items()} == {
        "x": "a", "y": "b", "t": "c", "u": "d",
    }  # fmt: skip
    assert not list(Pattern("p", "t = mul(x, x)\nu = add(t, y)").find(view))
    assert not list(Pattern("p", "t = mul(x, y)\nu = add(t, t)").find(view))
    assert list(Pattern("p", "t = mul(_, _)\nu = add(t, _)").find(view))
    with pytest.raises(GraphError, match="is not of the pattern q"):
        Pattern("q", "t = sub(x, y)\nu = add(t, y)").bind(node)


def test_patterns_that_are_no_patterns() -> None:
    with pytest.raises(GraphError, match="'y = add a' is not a statement"):
        Pattern("p", "y = add a").statements  # noqa: B018
    lone = Pattern("p", "n = rms_norm(x, w)\ny = ternary_matmul(a, b)")
    with pytest.raises(GraphError, match="shares no name with those before"):
        list(lone.find(View.of(read(NORM))))


CYCLE = """
graph @g {
  input %x: f32[4]
  %a: f32[4] = scale(%x) {factor=2.0}
  %between: f32[4] = silu(%a)
  %b: f32[4] = add(%a, %between)
  return %b
}
"""


def test_a_cycle_is_refused() -> None:
    with pytest.raises(GraphError, match="leaves the group and comes back through %between"):
        fuse_nodes(read(CYCLE), "p", ["a", "b"])
    assert len(fuse_nodes(read(CYCLE), "p", ["a", "between", "b"]).nodes) == 1


def test_a_lost_value_is_refused() -> None:
    graph = read(NORM.replace("return %y", "return %y, %n"))
    (q,) = graph.nodes[1].outputs
    with pytest.raises(GraphError, match="%n is needed outside, but the fused node does not give"):
        fuse_nodes(graph, "p", ["n", "q"], (q,))


def test_what_nothing_needs_is_left_to_dce() -> None:
    graph = read(CYCLE.replace("return %b", "return %x"))
    assert Fuse()(graph) == graph
    with pytest.raises(GraphError, match="nothing needs what the group gives"):
        fuse_nodes(graph, "p", ["a", "between", "b"])


def test_two_groups_that_would_wait_for_each_other_are_not_both_fused() -> None:
    graph = read(
        """
        graph @g {
          input %x: f32[4]
          %a: f32[4] = scale(%x) {factor=2.0}
          %b: f32[4] = silu(%x)
          %c: f32[4] = add(%a, %b)
          %d: f32[4] = mul(%b, %a)
          return %c, %d
        }
        """
    )
    first = fuse_nodes(graph, "p", ["a", "c"])
    verify(first)
    with pytest.raises(GraphError, match="comes back through"):
        fuse_nodes(first, "p", ["b", "d"])


def test_what_stands_between_is_moved_out_of_the_way() -> None:
    graph = read(
        """
        graph @g {
          input %x: f32[4]
          input %z: f32[4]
          %a: f32[4] = scale(%x) {factor=2.0}
          %user: f32[4] = silu(%a)
          %operand: f32[4] = silu(%z)
          %b: f32[4] = add(%a, %operand)
          return %user, %b
        }
        """
    )
    fused = fuse_nodes(graph, "p", ["a", "b"])
    verify(fused)
    assert [node.outputs[0].name for node in fused.nodes] == ["operand", "a", "user"]


def test_nothing_reads_a_state_after_its_place_is_taken() -> None:
    """The fused node would read %s, and has to come after what takes its place."""
    text = """
        graph @g {
          input %x: f32[4]
          state %s: f32[4]
          %a: f32[4] = mul(%x, %s)
          %s.new: f32[4] = scale(%s) {factor=2.0}
          %b: f32[4] = BINARY
          return %b, %s.new -> %s
        }
        """
    free = fuse_nodes(read(text.replace("BINARY", "add(%a, %x)")), "p", ["a", "b"])
    verify(free)
    assert [node.outputs[0].name for node in free.nodes] == ["b", "s.new"]
    with pytest.raises(GraphError, match=r"comes back through %s\.new"):
        fuse_nodes(read(text.replace("BINARY", "add(%a, %s.new)")), "p", ["a", "b"])


def test_an_unknown_pattern_is_named() -> None:
    with pytest.raises(GraphError, match="there is no pattern named 'norm'"):
        Fuse(only=("norm",))(read(NORM))


@pytest.mark.parametrize("name", ["logits", "prompt", "decode", "train 5-dce"])
def test_putting_the_bodies_back_gives_the_same_nodes(name: str) -> None:
    graph = all_graphs()[name]
    fused = Fuse()(graph)
    verify(fused)
    assert fused_nodes(fused)
    assert parse_graph(str(fused)) == fused
    assert unpack_graph(pack_graph(fused)) == fused
    again = expand_fused(fused)
    verify(again)
    assert sorted(map(str, again.nodes)) == sorted(map(str, graph.nodes))
    assert replace(again, nodes=()) == replace(graph, nodes=())


def test_a_body_put_back_twice_gets_names_of_its_own() -> None:
    graph = Fuse(only=("norm_quantize",))(read(NORM))
    (node,) = fused_nodes(graph)
    (q,) = node.outputs
    twin = replace(node, outputs=(replace(q, name="q2"),))
    twice = replace(graph, nodes=(node, twin), outputs=(q, *twin.outputs))
    verify(twice)
    verify(expand_fused(twice))
    values = {"x": np.ones((4, 16), np.float32), "w": np.ones(16, np.float32)}
    bare = replace(twice, inputs=twice.inputs[:2])
    results = evaluate(bare, values)
    assert_same_bits(results["q"], results["q2"])


def test_a_renamed_fused_node_keeps_its_meaning() -> None:
    graph = Fuse(only=("norm_quantize",))(read(NORM))
    other = rename(graph, {"x": "input", "q": "codes"})
    verify(other)
    assert [v.name for v in expand_fused(other).nodes[1].outputs] == ["codes"]


@pytest.mark.parametrize(
    "body", ["", "graph @g {", "graph @g {\n  %a: f32[2] = add()\n  return\n}"]
)
def test_a_body_that_is_no_graph_is_refused(body: str) -> None:
    (node,) = fused_nodes(Fuse(only=("norm_quantize",))(read(NORM)))
    attrs = tuple((name, body if name == "body" else value) for name, value in node.attrs)
    with pytest.raises(GraphError, match="the body is no graph"):
        verify(replace(read(NORM), nodes=(replace(node, attrs=attrs),), outputs=node.outputs))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_a_fused_graph_gives_the_same_bits(data: st.DataObject) -> None:
    """Whatever hangs together how, what is returned, and when a state's place is taken."""
    b = GraphBuilder("g")
    x, y = (b.add_input(name, tensor("f32", 2, 4), Role.INPUT) for name in "xy")
    state = b.add_input("s", tensor("f32", 2, 4), Role.STATE)
    weight = b.add_input("w", tensor("f32", 4), Role.WEIGHT)
    values = [x, y, state]
    for _ in range(data.draw(st.integers(3, 16))):
        op = data.draw(st.sampled_from(["add", "mul", "relu", "scale", "rms_norm"]))
        one, two = (data.draw(st.sampled_from(values)) for _ in range(2))
        if op == "rms_norm":
            values.append(b.op(op, one, weight, eps=1e-5))
        elif op == "scale":
            values.append(b.op(op, one, factor=0.5))
        else:
            values.append(b.op(op, *((one,) if op == "relu" else (one, two))))
    readers = [k for k, node in enumerate(b.nodes) if state in node.inputs]
    new = b.nodes[data.draw(st.integers(max(readers, default=0), len(b.nodes) - 1))].outputs[0]
    others = [v for v in values[3:] if v != new and data.draw(st.booleans())]
    graph = b.finish((new, *others), (Alias(new.name, "s"),))
    verify(graph)
    fused = Fuse()(graph)
    verify(fused)
    rng = np.random.default_rng(0)
    given_ = {
        i.value.name: rng.standard_normal(i.value.type.shape).astype(np.float32)
        for i in graph.inputs
    }
    got, want = evaluate(fused, given_), evaluate(graph, given_)
    for name, value in want.items():
        assert_same_bits(got[name], value)
