"""What pictures tell of a graph: phases, categories, groups, and where everything is placed."""

import re
from itertools import combinations

import pytest
from bitgraph.graph.export.groups import (
    Group,
    broad_values,
    edges,
    group_nodes,
    members_of,
    open_scopes,
    scopes,
)
from bitgraph.graph.export.layout import METRICS, Box, lay_out
from bitgraph.graph.export.view import (
    Category,
    Phase,
    make_view,
    saved_bytes,
    shares_of,
    short_name,
)
from bitgraph.graph.text import parse_graph
from bitgraph.graph.types import GraphError
from graphs import training_graph

STEP = """\
graph @step {
  input %x: f32[4,8]
  weight %w: t2[6,8]
  param %p: f32[6,8]
  %q: q8[4,8] = quantize(%x) @layers.0/mlp
  %y: f32[4,6] = ternary_matmul(%q, %w) @layers.0/mlp
  %h: f32[4,6] = relu(%y) @layers.0/mlp
  %r: f32[2,12] = reshape(%h) {shape=(2, 12)} @layers.0/mlp
  %loss: f32[] = dot(%r, %r) @loss
  %one: f32[] = full_like(%loss) {value=1.0} @loss/grad
  %d.r: f32[2,12] = mul_scalar(%r, %one) @loss/grad
  %h.re: f32[4,6] = relu(%y) @layers.0/mlp/recompute
  %p.grad: f32[6,8] = fused(%d.r, %h.re, %x) {body="", pattern="made up"} @layers.0/mlp/grad
  %p.new: f32[6,8] = scale(%p.grad) {factor=0.5} @optimizer
  return %loss, %p.new -> %p
}
"""


def test_categories_of_a_small_step() -> None:
    view = make_view(parse_graph(STEP), "joint")
    expected = {
        "q": ("forward", "plain"),
        "y": ("forward", "saved"),  # read by the recomputed relu
        "h": ("forward", "plain"),
        "r": ("forward", "saved"),
        "loss": ("forward", "saved"),
        "one": ("backward", "backward"),
        "d.r": ("backward", "backward"),
        "h.re": ("recompute", "recomputed"),
        "p.grad": ("backward", "fused"),
        "p.new": ("optimizer", "optimizer"),
    }
    names = [node.outputs[0].name for node in view.graph.nodes]
    shown = zip(names, view.phases, view.categories, strict=True)
    assert {name: (phase, category) for name, phase, category in shown} == expected
    assert view.value_categories["p.grad"] is Category.BACKWARD


def test_a_reshape_of_a_saved_value_is_counted_once() -> None:
    view = make_view(parse_graph(STEP), "joint")
    assert saved_bytes(view) == {"y": 4 * 6 * 4, "h": 4 * 6 * 4, "loss": 4}
    again = STEP.replace("relu(%y) @layers.0/mlp/recompute", "relu(%h) @layers.0/mlp/recompute")
    assert saved_bytes(make_view(parse_graph(again), "joint")) == {"h": 4 * 6 * 4, "loss": 4}


def test_a_fused_node_tells_that_its_results_are_saved() -> None:
    text = STEP.replace(
        "relu(%y) @layers.0/mlp\n", 'fused(%y) {body="", pattern="p"} @layers.0/mlp\n'
    )
    view = make_view(parse_graph(text.replace("reshape(%h) {shape=(2, 12)}", "relu(%h)")), "fused")
    assert shares_of(view, 2) == (Category.FUSED,)
    view = make_view(parse_graph(text.replace("(%r, %one)", "(%h, %one)")), "fused")
    assert shares_of(view, 2) == (Category.SAVED, Category.FUSED)
    assert shares_of(view, 1) == (Category.SAVED,)


def test_nodes_are_grouped_by_phase_and_scope() -> None:
    groups = group_nodes(make_view(parse_graph(STEP), "joint"))
    assert [(g.key, [shape(child) for child in g.children]) for g in groups] == [
        ("forward:layers.0", [("forward:layers.0/mlp", [0, 1, 2, 3])]),
        ("forward:loss", [4]),
        ("backward:loss", [5, 6]),
        ("recompute:layers.0", [("recompute:layers.0/mlp", [7])]),
        ("backward:layers.0", [("backward:layers.0/mlp", [8])]),
        ("optimizer:optimizer", [9]),
    ]
    assert scopes(groups) == {"layers.0", "layers.0/mlp", "loss", "optimizer"}


def shape(child: int | Group) -> object:
    return (child.key, [shape(c) for c in child.children]) if isinstance(child, Group) else child


def rows_of(text: str) -> tuple[tuple[int, ...], ...]:
    body = "".join(f"  %{line} @block\n" for line in text.strip().splitlines())
    graph = parse_graph(f"graph @g {{\n  input %x: f32[2]\n{body}  return\n}}\n")
    (group,) = group_nodes(make_view(graph, "forward"))
    return group.rows


def test_rows_follow_the_longest_path() -> None:
    chain = "a: f32[2] = relu(%x)\nb: f32[2] = relu(%a)\nc: f32[2] = add(%a, %b)"
    # the line from a to c bends once on its way past b; a link is numbered as it is found
    assert rows_of(chain) == ((0,), (1, -2), (2,))


def test_what_starts_late_stands_above_its_reader() -> None:
    late = (
        "a: f32[2] = relu(%x)\nb: f32[2] = relu(%a)\nc: f32[2] = relu(%x)\nd: f32[2] = add(%b, %c)"
    )
    assert [set(row) for row in rows_of(late)] == [{0}, {1, 2}, {3}]


def test_rows_are_sorted_so_that_lines_do_not_cross() -> None:
    crossed = (
        "a: f32[2] = relu(%x)\nb: f32[2] = relu(%x)\nc: f32[2] = relu(%b)\nd: f32[2] = relu(%a)"
    )
    first, second = rows_of(crossed)
    assert {0: 3, 1: 2}[first[0]] == second[0]


def test_a_wide_row_is_wrapped() -> None:
    wide = "\n".join(f"v{k}: f32[2] = relu(%x)" for k in range(30))
    assert [len(row) for row in rows_of(wide)] == [12, 12, 6]


def test_values_that_nearly_all_read_are_known() -> None:
    lines = "".join(f"  %y{k}: f32[2] = relu(%table) @layers.{k}\n" for k in range(5))
    text = "graph @g {{\n  input %x: f32[2]\n  %table: f32[2] = relu(%x) @first\n{}  return\n}}\n"
    assert broad_values(make_view(parse_graph(text.format(lines)), "forward")) == ["table"]
    fewer = "".join(lines.splitlines(keepends=True)[:4])
    assert broad_values(make_view(parse_graph(text.format(fewer)), "forward")) == []


OPENED = [[], ["layers.0/mlp"], ["layers.0/self_attn", "layers.1", "optimizer", "loss"]]


@pytest.mark.parametrize("wanted", OPENED)
def test_boxes_never_overlap_and_lie_inside_their_groups(wanted: list[str]) -> None:
    view = make_view(training_graph(6), "joint")
    groups = group_nodes(view)
    opened = open_scopes(groups, wanted)
    layout = lay_out(groups, opened)
    closed = [box for box in layout.boxes if not box.open]
    for a, b in combinations(closed, 2):
        assert apart(a, b), (a, b)
    boxes = {box.item: box for box in layout.boxes}
    for box in layout.boxes:
        assert 0 <= box.x <= box.x + box.width <= layout.width
        assert 0 <= box.y <= box.y + box.height <= layout.height
        if isinstance(box.item, Group) and box.open:
            for child in box.item.children:
                assert inside(boxes[child], box)
    shown = [
        k for b in closed for k in ([b.item] if isinstance(b.item, int) else members_of(b.item))
    ]
    assert sorted(shown) == list(range(len(view.graph.nodes)))


def test_forward_runs_down_and_backward_runs_up() -> None:
    view = make_view(training_graph(6), "joint")
    groups = group_nodes(view)
    layout = lay_out(groups, scopes(groups))
    boxes = {box.item: box for box in layout.boxes if isinstance(box.item, int)}
    checked = set()
    for source, target in edges(view):
        phase = view.phases[source]
        if view.phases[target] is not phase or phase is Phase.OPTIMIZER:
            continue
        up = phase is Phase.BACKWARD
        lower, upper = (source, target) if up else (target, source)
        assert boxes[lower].y >= boxes[upper].y + boxes[upper].height
        checked.add(phase)
    assert checked == {Phase.FORWARD, Phase.BACKWARD}


def apart(a: Box, b: Box) -> bool:
    gap = METRICS["bend"]
    return (
        a.x + a.width + gap <= b.x
        or b.x + b.width + gap <= a.x
        or a.y + a.height + gap <= b.y
        or b.y + b.height + gap <= a.y
    )


def inside(inner: Box, outer: Box) -> bool:
    return (
        outer.x < inner.x
        and outer.y < inner.y
        and inner.x + inner.width < outer.x + outer.width
        and inner.y + inner.height < outer.y + outer.height
    )


def test_names_are_shortened_by_what_the_scope_says() -> None:
    names = {
        node.outputs[0].name: short_name(node)
        for node in training_graph(6).nodes
        if node.scope.startswith("layers.1/mlp")
    }
    assert names["layers.1.mlp.gated"] == "gated"
    assert names["layers.1.mlp_in"] == "mlp_in"
    assert names["d.layers.1.mlp.gated.1"] == "d.gated.1"


def test_opening_a_scope_opens_those_around_it() -> None:
    groups = group_nodes(make_view(parse_graph(STEP), "joint"))
    assert open_scopes(groups, ["layers.0/mlp"]) == {"layers.0", "layers.0/mlp"}
    said = re.escape("no scope 'layers.7' to open; the outer ones are layers.0, loss, optimizer")
    with pytest.raises(GraphError, match=said):
        open_scopes(groups, ["layers.7"])
