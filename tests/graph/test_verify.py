"""Every rule of the verifier, broken once."""

from dataclasses import replace

import pytest
from bitgraph.graph.ir import Alias, Graph, Input, Node, Role, Value
from bitgraph.graph.text import parse_graph
from bitgraph.graph.types import GraphError, tensor
from bitgraph.graph.verify import verify
from graphs import all_graphs, training_graph

STEP = """
graph @step {
  input %x: f32[4,16]
  input %c: f32[]
  param %p: f32[4,16]
  param %r: f32[4,16]
  state %s: f32[2]
  %a: f32[4,16] = add(%x, %p) @one
  %b: f32[4,16] = scale(%a) {factor=0.5} @two
  %d: f32[4,16] = mul(%b, %x) @three
  %e: f32[4,16] = sub(%d, %b) @four
  %n: f32[] = dot(%e, %e) @five
  return %e -> %p, %n
}
"""


def test_a_good_graph_verifies() -> None:
    verify(parse_graph(STEP))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("= add(%x, %p)", "= plus(%x, %p)", "graph @step: there is no op named 'plus'"),
        ("= add(%x, %p)", "= add(%x)", r"add takes 2 operands \(a, b\), got 1"),
        ("= add(%x, %p)", "= add(%x, %s)", r"add\(f32\[4,16\], f32\[2\]\): f32\[2\] differs from"),
        ("{factor=0.5} ", "", "scale takes the attributes factor; given: none"),
        ("{factor=0.5}", "{factor=2}", "scale: attribute factor is 2, not of type .*float"),
        ("{factor=0.5}", "{factor=inf}", r"scale\(f32\[4,16\]\): factor inf is not finite"),
        (
            "{factor=0.5}",
            "{factor=0.5, f=1}",
            "scale takes the attributes factor; given: f, factor",
        ),
        ("%n: f32[]", "%n: f32[1]", r"dot gives f32\[\], the graph says f32\[1\]"),
        ("%n: f32[]", "%n: f64[]", r"dot gives f32\[\], the graph says f64\[\]"),
        (
            "%n: f32[]",
            "%n: f32[], %m: f32[]",
            r"dot gives f32\[\], the graph says f32\[\], f32\[\]",
        ),
        ("%e -> %p", "%e -> %x", "%x is donated but is no param or state"),
        ("%e -> %p", "%e -> %b", "%b is donated but is no param or state"),
        ("%e -> %p", "%e -> %s", "%e and %s have different types"),
        ("%e -> %p", "%e -> %p, %d -> %p", "%d -> %p donates a second time"),
        ("%e -> %p", "%e -> %p, %e -> %r", "%e -> %r donates a second time"),
        ("dot(%e, %e)", "dot(%e, %p)", "%p is read after %e took its place"),
    ],
)
def test_a_broken_rule_is_named(old: str, new: str, message: str) -> None:
    assert STEP.count(old) == 1
    with pytest.raises(GraphError, match=message):
        verify(parse_graph(STEP.replace(old, new)))


X = Value("x", tensor("f32", 2))
Y = Value("y", tensor("f32", 2))
RELU = Node("relu", (X,), (Y,))
GOOD = Graph("g", (Input(X, Role.INPUT),), (RELU,), (Y,))
SCALED = Node("scale", (X,), (Y,), (("factor", 1.0),))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (replace(GOOD, name="two words"), "'two words' is not a name: it takes letters, digits"),
        (replace(GOOD, name=""), "'' is not a name"),
        (
            replace(GOOD, inputs=(*GOOD.inputs, Input(Value("a\nb", X.type), Role.INPUT))),
            r"'a\\nb' is not a name",
        ),
        (replace(GOOD, inputs=GOOD.inputs * 2), "^%x is defined twice"),
        (replace(GOOD, inputs=()), "%x is used before it is defined"),
        (replace(GOOD, nodes=(RELU, RELU)), "%y is defined twice"),
        (replace(GOOD, nodes=()), "^%y is used before it is defined"),
        (
            replace(GOOD, nodes=(replace(RELU, inputs=(Y,)),)),
            "%y is used before it is defined",
        ),
        (
            replace(GOOD, nodes=(replace(RELU, inputs=(Value("x", tensor("f32", 3)),)),)),
            r"%x is used as f32\[3\], but it is f32\[2\]",
        ),
        (
            replace(GOOD, outputs=(Value("y", tensor("f64", 2)),)),
            r"^%y is used as f64\[2\], but it is f32\[2\]",
        ),
        (
            replace(GOOD, nodes=(replace(RELU, scope="a b"),)),
            "'a b' is not a scope such as layers.3/self_attn",
        ),
        (
            replace(GOOD, nodes=(replace(SCALED, attrs=SCALED.attrs * 2),)),
            "attributes are not in the order of their names, each once",
        ),
        (
            replace(GOOD, nodes=(replace(SCALED, attrs=(("z", 1), *SCALED.attrs)),)),
            "attributes are not in the order of their names",
        ),
        (
            replace(GOOD, aliases=(Alias("z", "x"),)),
            "%z takes %x's place but is no output",
        ),
    ],
)
def test_a_graph_that_no_text_has_is_refused(graph: Graph, message: str) -> None:
    verify(GOOD)
    verify(replace(GOOD, nodes=(SCALED,)))
    with pytest.raises(GraphError, match=message):
        verify(graph)


def test_the_wrong_line_stands_among_its_neighbours() -> None:
    with pytest.raises(GraphError) as caught:
        verify(parse_graph(STEP.replace("%d: f32[4,16]", "%d: f32[16]")))
    assert str(caught.value).splitlines() == [
        "graph @step: mul gives f32[4,16], the graph says f32[16]",
        "    %a: f32[4,16] = add(%x, %p) @one",
        "    %b: f32[4,16] = scale(%a) {factor=0.5} @two",
        "  > %d: f32[16] = mul(%b, %x) @three",
        "    %e: f32[4,16] = sub(%d, %b) @four",
        "    %n: f32[] = dot(%e, %e) @five",
    ]


@pytest.mark.parametrize(("result", "shown"), [("%a", "> "), ("%n", "  ")])
def test_the_neighbours_end_with_the_graph(result: str, shown: str) -> None:
    with pytest.raises(GraphError) as caught:
        verify(parse_graph(STEP.replace(f"{result}: f32", f"{result}: f64")))
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 3
    assert lines[0].startswith(f"  {shown}")
    assert sum(line.startswith("  > ") for line in lines) == 1


def test_a_donated_value_may_be_read_until_its_place_is_taken() -> None:
    text = STEP.replace("sub(%d, %b)", "sub(%d, %p)")
    verify(parse_graph(text))
    graph = training_graph(3)
    assert len(graph.aliases) == 3 * len(graph.inputs_of(Role.PARAM)) + 1 > 1  # and `SOUND`


def test_every_deleted_node_of_a_training_step_is_missed() -> None:
    graph = training_graph(3)
    for k in range(len(graph.nodes)):
        with pytest.raises(GraphError, match="is used before it is defined"):
            verify(replace(graph, nodes=graph.nodes[:k] + graph.nodes[k + 1 :]))


def test_all_graphs_verify() -> None:
    for graph in all_graphs().values():
        verify(graph)
