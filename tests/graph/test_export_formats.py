"""Every format is read back by a program that knows nothing of ours."""

import io
import json
import re
from collections import Counter
from xml.etree import ElementTree as ET

import msgpack
import networkx as nx
import pydot
import pytest
from bitgraph.backends.vulkan.execution import execution_of
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.memory import live_lower_bound
from bitgraph.backends.vulkan.plan import Plan, make_plan
from bitgraph.backends.vulkan.schedule import Barrier
from bitgraph.graph.binary import unpack_graph
from bitgraph.graph.export.formats import FORMATS, export
from bitgraph.graph.export.memory import category_of_span
from bitgraph.graph.export.view import Category, View, make_view
from bitgraph.graph.ir import Alias, Graph, Input, Node, Role, Value, sorted_attrs
from bitgraph.graph.text import parse_graph
from bitgraph.graph.types import GraphError, parse_type
from graphs import training_graph
from test_export_view import STEP

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def graph() -> Graph:
    """A training step of the tiny model."""
    return training_graph(6)


@pytest.fixture(scope="module")
def view(graph: Graph) -> View:
    return make_view(graph, "joint")


@pytest.fixture(scope="module")
def plan(graph: Graph) -> Plan:
    return make_plan(graph, Limits())


@pytest.fixture(scope="module")
def planned(graph: Graph, plan: Plan) -> View:
    return make_view(graph, "schedule", execution_of(plan))


def reads(graph: Graph) -> Counter[tuple[str, str, str]]:
    """What each node reads: its source, the node, the value."""
    made = {v.name: node.outputs[0].name for node in graph.nodes for v in node.outputs}
    return Counter(
        (made.get(name, name), node.outputs[0].name, name)
        for node in graph.nodes
        for name in {value.name for value in node.inputs}
    )


def test_json_holds_the_whole_graph(graph: Graph, view: View) -> None:
    document = json.loads(export(view, "json"))
    values: dict[str, Value] = {}

    def value(record: dict[str, object]) -> Value:
        made = Value(str(record["name"]), parse_type(str(record["type"])))
        assert record["bytes"] == made.type.nbytes
        values[made.name] = made
        return made

    inputs = tuple(Input(value(item), Role(item["role"])) for item in document["inputs"])
    nodes = []
    for item in document["nodes"]:
        attrs = {k: tuple(v) if isinstance(v, list) else v for k, v in item["attributes"].items()}
        operands = tuple(values[name] for name in item["inputs"])
        results = tuple(value(record) for record in item["outputs"])
        nodes.append(Node(item["op"], operands, results, sorted_attrs(attrs), item["scope"]))
    outputs = tuple(values[name] for name in document["outputs"])
    aliases = tuple(Alias(*pair) for pair in document["aliases"])
    assert Graph(document["graph"], inputs, tuple(nodes), outputs, aliases) == graph
    for item in document["nodes"]:
        for record in item["outputs"]:
            users = [k for k, n in enumerate(document["nodes"]) if record["name"] in n["inputs"]]
            assert record["users"] == users


def test_text_and_msgpack_hold_the_graph(graph: Graph, view: View) -> None:
    assert parse_graph(export(view, "text").decode()) == graph
    packed = export(view, "msgpack")
    assert msgpack.unpackb(packed)["format"] == "bitgraph"
    assert unpack_graph(packed) == graph


def test_graphml_is_read_by_networkx(graph: Graph, view: View) -> None:
    read = nx.read_graphml(io.BytesIO(export(view, "graphml")), force_multigraph=True)
    assert Counter((a, b, facts["value"]) for a, b, facts in read.edges(data=True)) == reads(graph)
    assert set(read) == {i.value.name for i in graph.inputs} | {
        node.outputs[0].name for node in graph.nodes
    }
    for node, category in zip(graph.nodes, view.categories, strict=True):
        facts = read.nodes[node.outputs[0].name]
        assert (facts["op"], facts["scope"], facts["category"]) == (node.op, node.scope, category)
        assert facts["bytes"] == sum(v.type.nbytes for v in node.outputs)
    assert {facts["kind"] for _, facts in read.nodes(data=True)} >= {"op", "weight", "param"}


# pydot 4.0 calls its parser by names that the parser's new release calls old
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pydot")
def test_dot_is_read_by_pydot() -> None:
    graph = parse_graph(STEP)
    (read,) = pydot.graph_from_dot_data(export(make_view(graph, "joint"), "dot").decode())
    found = {(e.get_source().strip('"'), e.get_destination().strip('"')) for e in read.get_edges()}
    assert found == {(a, b) for a, b, _ in reads(graph)}

    def clusters(part: pydot.Graph) -> dict[str, object]:
        return {
            sub.get_name().strip('"'): (
                sorted(node.get_name().strip('"') for node in sub.get_nodes()),
                clusters(sub),
            )
            for sub in part.get_subgraphs()
        }

    tree = clusters(read)
    inner = {"cluster_forward:layers.0/mlp": (["h", "q", "r", "y"], {})}
    assert tree["cluster_forward:layers.0"] == ([], inner)
    assert tree["cluster_optimizer:optimizer"] == (["p.new"], {})
    labels = [node.get("label") for node in read.get_nodes()]
    assert '"weight w\\nt2[6,8]"' in labels


def elements(data: bytes, tag: str, style: str) -> list[ET.Element]:
    root = ET.fromstring(data)
    return [e for e in root.iter(SVG + tag) if style in e.get("class", "").split()]


def test_svg_has_a_card_for_all_that_is_closed(view: View) -> None:
    closed = export(view, "svg")
    titles = [text.text for text in elements(closed, "text", "strong")]
    assert titles.count("layers.0") == 2  # forward and backward
    assert len(elements(closed, "rect", "inner")) == 0
    opened = export(view, "svg", ["layers.1/mlp"])
    here = [n for n in view.graph.nodes if n.scope in ("layers.1/mlp", "layers.1/mlp/grad")]
    # in the place of two cards: a card for each node, and one for each self_attn
    cards = len(elements(closed, "rect", "card")) - 2 + 2 + len(here)
    assert len(elements(opened, "rect", "card")) == cards
    assert len(elements(opened, "rect", "inner")) == 4
    tips = {e.text for e in ET.fromstring(opened).iter(SVG + "title") if e.text}
    assert "%layers.1.mlp.gated\nlayers.1/mlp" in tips


def test_svg_draws_lines_in_the_colour_of_what_crosses_to_another_phase() -> None:
    scopes = ["layers.0/mlp", "loss"]
    data = export(make_view(parse_graph(STEP), "joint"), "svg", scopes)
    lines = [
        (title.text, line.get("class"))
        for line in elements(data, "path", "edge")
        for title in line.iter(SVG + "title")
    ]
    assert sorted(lines) == [  # type: ignore[type-var]
        ("d.r (96 B)", "edge"),
        ("h (96 B)", "edge"),
        ("h.re (96 B)", "edge recomputed"),
        ("loss (4 B)", "edge saved"),
        ("one (4 B)", "edge"),
        ("p.grad (192 B)", "edge"),
        ("q (48 B)", "edge"),
        ("r (96 B)", "edge"),  # to the loss
        ("r (96 B)", "edge saved"),  # to its gradient
        ("y (96 B)", "edge"),
        ("y (96 B)", "edge saved"),
    ]


def test_memory_svg_shows_every_span_at_its_size(planned: View, plan: Plan) -> None:
    data = export(planned, "svg")
    (frame,) = elements(data, "rect", "card")
    width, height = float(frame.get("width", "")), float(frame.get("height", ""))
    arena = sum(b.size for b in plan.schedule.buffers if b.name.startswith("arena"))
    dispatches = len(plan.schedule.dispatches)
    tips = {}
    for rect in ET.fromstring(data).iter(SVG + "rect"):
        title = rect.find(SVG + "title")
        if title is not None and title.text:
            tips[re.split("[,:]| and ", title.text)[0]] = rect
    assert planned.execution is not None
    titles = [span.names[0] for span in planned.execution.spans]
    assert sorted(tips) == sorted(titles)
    base = float(frame.get("y", "")) + height
    for title, item in zip(titles, plan.intervals, strict=True):
        rect = tips[title]
        left = (float(rect.get("x", "")) - float(frame.get("x", ""))) / width * dispatches
        assert left == pytest.approx(item.begin, abs=dispatches / 1000)
        bottom = (base - float(rect.get("y", "")) - float(rect.get("height", ""))) / height * arena
        offset = plan.slices[item.name].offset
        assert bottom == pytest.approx(offset, abs=arena / 1000)
        size = float(rect.get("height", "")) / height * arena
        assert size == pytest.approx(item.size, abs=arena / 1000)


def test_the_live_set_peaks_at_the_planners_lower_bound(planned: View, plan: Plan) -> None:
    assert planned.execution is not None
    live = planned.execution.live_bytes()
    assert len(live) == len(plan.schedule.dispatches)
    assert max(live) == live_lower_bound(plan.intervals, alignment=1)
    for position in (0, len(live) // 2, len(live) - 1):
        alive = [i.size for i in plan.intervals if i.begin <= position <= i.end]
        assert live[position] == sum(alive)


def test_a_place_has_the_category_of_what_is_kept_in_it(planned: View) -> None:
    assert planned.execution is not None
    (span,) = (s for s in planned.execution.spans if "layers.1.self_attn.merged" in s.names)
    assert planned.value_categories["layers.1.self_attn.mixed"] is Category.SAVED
    (values,) = (s for s in planned.execution.spans if "layers.1.self_attn.v_heads" in s.names)
    assert values.names[0] == "layers.1.self_attn.v_proj.base"  # the sum takes its place
    assert planned.value_categories[values.names[0]] is Category.PLAIN
    assert {category_of_span(planned, s) for s in (span, values)} == {Category.SAVED}
    scratch = [s for s in planned.execution.spans if s.names[0].startswith("scratch")]
    assert {category_of_span(planned, s) for s in scratch} >= {Category.BACKWARD}


def test_the_schedule_in_json(planned: View, plan: Plan) -> None:
    schedule = json.loads(export(planned, "json"))["schedule"]
    dispatches = schedule["dispatches"]
    assert [d["kernel"] for d in dispatches] == [d.kernel for d in plan.schedule.dispatches]
    barriers = sum(isinstance(c, Barrier) for c in plan.schedule.commands)
    assert sum(d["barrier_before"] for d in dispatches) == barriers
    results = {node.outputs[0].name for node in planned.graph.nodes}
    assert {d["result"] for d in dispatches} <= results
    first = plan.schedule.dispatches[0].bindings[0]
    assert dispatches[0]["bindings"][0] == {
        "access": first.access,
        "buffer": first.slice.buffer,
        "offset": first.slice.offset,
        "size": first.slice.size,
    }
    assert export(planned, "text").decode() == str(plan)


def test_a_schedule_is_no_graph_in_msgpack(planned: View) -> None:
    with pytest.raises(GraphError, match="msgpack holds graphs"):
        export(planned, "msgpack")


def test_only_pictures_of_graphs_are_opened(view: View, planned: View) -> None:
    for shown, name in ((view, "dot"), (view, "json"), (planned, "svg")):
        with pytest.raises(GraphError, match="have scopes to open"):
            export(shown, name, ["loss"])


@pytest.mark.parametrize("name", FORMATS)
def test_a_graph_without_nodes_is_written(name: str) -> None:
    graph = parse_graph("graph @empty {\n  input %x: f32[2]\n  return %x\n}\n")
    assert export(make_view(graph, "forward"), name)


def test_the_page_refers_to_nothing_outside(planned: View) -> None:
    text = export(planned, "html").decode()
    assert set(re.findall(r'(?:src|href)="([^"]*)"', text)) == {"data:,"}
    assert not re.findall(r"https?://|@import|url\(", text)
    assert text.count("</script>") == 2
