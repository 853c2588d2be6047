"""The text form: what it looks like, what it refuses, and that it loses nothing."""

from contextlib import suppress

import pytest
from bitgraph.graph.ir import Alias, Attr, Graph, Input, Node, Role, Value
from bitgraph.graph.text import format_attr, parse_attr, parse_attrs, parse_graph
from bitgraph.graph.types import DType, GraphError, TensorType, parse_type, tensor
from bitgraph.graph.verify import verify
from graphs import all_graphs, training_graph
from hypothesis import example, given, settings
from hypothesis import strategies as st

NAMES = st.text("abz019_.-é", min_size=1, max_size=6)
SHAPES = st.lists(st.integers(0, 2**40), max_size=4).map(tuple)
TYPES = st.builds(TensorType, st.sampled_from(list(DType)), SHAPES)
ATTRS: st.SearchStrategy[Attr] = st.one_of(
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(),
    st.lists(st.integers()).map(tuple),
)
SCOPES = st.text("abz09_./-é", max_size=8)


@st.composite
def random_graphs(draw: st.DrawFn) -> Graph:
    """Graphs that are well-formed as text; their ops and types need not make sense."""
    names = iter(draw(st.lists(NAMES, min_size=10, max_size=10, unique=True)))
    known = [Value(next(names), draw(TYPES)) for _ in range(draw(st.integers(0, 3)))]
    inputs = tuple(Input(value, draw(st.sampled_from(list(Role)))) for value in known)
    nodes = []
    for _ in range(draw(st.integers(0, 3))):
        operands = draw(st.lists(st.sampled_from(known), max_size=3)) if known else []
        results = [Value(next(names), draw(TYPES)) for _ in range(draw(st.integers(1, 2)))]
        keys = sorted(draw(st.sets(st.text("abc_9", min_size=1, max_size=3), max_size=3)))
        attrs = tuple((key, draw(ATTRS)) for key in keys)
        op = draw(st.text("abc_9", min_size=1, max_size=5))
        nodes.append(Node(op, tuple(operands), tuple(results), attrs, draw(SCOPES)))
        known += results
    outputs = draw(st.lists(st.sampled_from(known), max_size=3, unique=True)) if known else []
    donated = [Alias(o.name, known[0].name) for o in outputs if draw(st.booleans())]
    return Graph(draw(NAMES), inputs, tuple(nodes), tuple(outputs), tuple(donated))


EXAMPLE = """\
graph @m {
  input %x: f32[4,16]
  weight %up: t2[24,16]
  param %p: f32[]
  state %s: f64[2]
  %q: q8[4,16] = quantize(%x) @layers.0
  %u: f32[4,24] = ternary_matmul(%q, %up) {note="an \\"attribute\\"", sizes=(1, -2), t=1e-05} @a/b
  %a: f32[1], %b: f32[2] = two() {flag=true}
  return %u, %b -> %p
}
"""


def test_the_text_of_an_example() -> None:
    graph = parse_graph(EXAMPLE)
    assert str(graph) == EXAMPLE
    assert graph.name == "m"
    assert [i.role for i in graph.inputs] == [Role.INPUT, Role.WEIGHT, Role.PARAM, Role.STATE]
    up = graph.nodes[1]
    assert up.attributes == {"note": 'an "attribute"', "sizes": (1, -2), "t": 1e-05}
    assert up.scope == "a/b"
    assert up.inputs == (Value("q", tensor("q8", 4, 16)), Value("up", tensor("t2", 24, 16)))
    assert [v.name for v in graph.nodes[2].outputs] == ["a", "b"]
    assert graph.nodes[2].attrs == (("flag", True),)
    assert graph.aliases == (Alias("b", "p"),)
    assert graph.output("u") is graph.outputs[0]
    with pytest.raises(KeyError):
        graph.output("x")


@pytest.mark.parametrize("graph", all_graphs().values(), ids=list(all_graphs()))
def test_parsing_gives_the_graph_back(graph: Graph) -> None:
    verify(graph)
    text = str(graph)
    assert parse_graph(text) == graph
    assert str(parse_graph(text)) == text


@settings(max_examples=200, derandomize=True, deadline=None)
@given(random_graphs())
def test_parsing_gives_any_graph_back(graph: Graph) -> None:
    assert parse_graph(str(graph)) == graph


@settings(max_examples=300, derandomize=True, deadline=None)
@given(ATTRS)
@example(float("inf"))
@example(-0.0)
@example(1e22)
@example(1.0)
@example(True)
@example(1)
@example(())
@example((-3,))
@example('"}, %x) @scope\n\\')
def test_attributes_survive_with_their_type(value: Attr) -> None:
    back = parse_attr(format_attr(value))
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)
    assert parse_attrs(f"first=1, key={format_attr(value)}")["key"] == value


@given(TYPES)
def test_types_survive(type: TensorType) -> None:
    assert parse_type(str(type)) == type


@pytest.mark.parametrize(
    "text",
    ["f32", "f32[", "f32[1,]", "f32[-1]", "f33[1]", "[1]", "F32[1]", "f32[1][2]", "f32[1, 2]", ""],
)
def test_what_is_no_type(text: str) -> None:
    with pytest.raises(GraphError, match="is not a tensor type; write one as f32"):
        parse_type(text)


@pytest.mark.parametrize("digits", [16, 5000])
def test_a_size_has_a_limit(digits: int) -> None:
    with pytest.raises(GraphError, match="is not a tensor type"):
        parse_type(f"f32[{'1' * digits}]")
    assert parse_type(f"f32[{'1' * 15}]").size == int("1" * 15)


def test_blank_lines_comments_and_indentation_do_not_matter() -> None:
    loose = "# a comment\n\n" + EXAMPLE.replace("\n  ", "\n\n // c\n \t") + "\n# the end\n"
    assert parse_graph(loose) == parse_graph(EXAMPLE)


GOOD = """\
graph @g {
  input %x: f32[2]
  %y: f32[2] = relu(%x) {a=1} @s
  return %y
}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("graph @g {", "grph @g {", r"line 1: 'grph @g \{' is not 'graph @name \{'"),
        ("graph @g {", "graph @g h {", "line 1: .* is not 'graph @name"),
        ("input %x", "inputs %x", "line 2: 'inputs %x: f32.* is neither an input, a node nor"),
        ("%x: f32[2]\n", "%x: f99[2]\n", "line 2: 'f99.2.' is not a tensor type"),
        ("relu(%x)", "relu(x)", "line 3: 'x' is not a list of values such as %x, %y"),
        ("relu(%x)", "relu(%x,%x)", "line 3: '%x,%x' is not a list of values"),
        ("relu(%x)", "relu(%z)", "line 3: %z is used before it is defined"),
        ("relu(%x)", "relu(%y)", "line 3: %y is used before it is defined"),
        ("%y: f32[2] =", "%x: f32[2] =", "line 3: %x is defined twice"),
        ("%y: f32[2] =", "%y =", "line 3: '%y' is not a result such as %y: f32"),
        ("{a=1}", "{a}", "line 3: 'a' is not a list of name=value"),
        ("{a=1}", "{a=1, a=2}", "line 3: 'a' is given twice"),
        ("{a=1}", "{a=x}", "line 3: 'x' is not a value of an attribute"),
        ("{a=1}", "{a=(-)}", "line 3: '\\(-\\)' is not a value of an attribute"),
        ("{a=1}", '{a="\\x"}', "line 3: .* is not a value of an attribute"),
        ("{a=1}", f"{{a={'9' * 5000}}}", "line 3: '9+' is not a value of an attribute"),
        ("return %y", "return y", "line 4: 'y' is not a returned value such as %y or %new -> %old"),
        ("return %y", "return %z", "line 4: %z is used before it is defined"),
        ("return %y", "return %y -> %z", "line 4: %z is used before it is defined"),
        ("return %y", "input %z: f32[1]\n  return %y", "line 4: inputs stand before nodes"),
        ("}\n", "return %x\n}\n", "line 5: 'return %x' stands behind the return"),
        ("\n}\n", "\n}\ngraph @h {\n}\n", r"line 6: 'graph @h \{' stands behind the graph"),
        ("\n}\n", "\n", "the text ends before the graph's closing brace"),
        ("  return %y\n}\n", "", "the text ends before the graph's closing brace"),
        (GOOD, "", "the text ends before the graph's closing brace"),
    ],
)
def test_what_does_not_parse_is_named_with_its_line(old: str, new: str, message: str) -> None:
    parse_graph(GOOD)
    index = GOOD.rindex(old)
    with pytest.raises(GraphError, match=f"^{message}"):
        parse_graph(GOOD[:index] + new + GOOD[index + len(old) :])


PIECES = ["%", "x", "}", "{", "\n", "->", "=", "(", ")", ", ", '"', "f32[", "]", "@", "1e999", "\0"]


def survives(text: str) -> None:
    """Whatever was done to a text, it is refused with a message or read without loss."""
    try:
        graph = parse_graph(text)
    except GraphError:
        return
    assert parse_graph(str(graph)) == graph
    with suppress(GraphError):
        verify(graph)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.data())
def test_a_damaged_text_is_refused_or_read(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([EXAMPLE, GOOD, "".join(str(training_graph(3))[:1500])]))
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(text)))
        end = data.draw(st.sampled_from([begin, begin + 1, begin + 9]))
        piece = data.draw(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)))
        text = text[:begin] + piece + text[end:]
    survives(text)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from([*EXAMPLE.splitlines(), *GOOD.splitlines()]), max_size=12))
def test_shuffled_lines_are_refused_or_read(lines: list[str]) -> None:
    survives("\n".join(lines))
