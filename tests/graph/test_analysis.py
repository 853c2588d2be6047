"""What is derived from graphs, and small rewrites."""

from dataclasses import replace

import networkx as nx
import pytest
from bitgraph.graph.analysis import (
    Footprint,
    all_values,
    input_bytes,
    last_uses,
    leads_to,
    lifetimes,
    live_bytes,
    needed_for,
    producers,
    storage,
    to_networkx,
    users,
)
from bitgraph.graph.ir import Alias, Graph, Role, Value
from bitgraph.graph.rewrite import map_values, rename, substitute, with_inputs
from bitgraph.graph.text import parse_graph
from bitgraph.graph.types import tensor
from bitgraph.graph.verify import verify
from graphs import read, training_graph

GRAPH = read(
    """
    graph @g {
      input %x: f32[4,8]
      input %idle: f32[]
      param %w: f32[4,8]
      %a: f32[4,8] = mul(%x, %x)
      %b: f32[4,8] = add(%a, %w) @s
      %unused: f32[4,8] = relu(%a)
      %c: f32[4,8] = sub(%b, %a)
      %loss: f32[] = dot(%c, %b)
      return %loss, %c -> %w
    }
    """
)


def value(graph: Graph, name: str) -> Value:
    return next(v for v in all_values(graph) if v.name == name)


def test_producers_and_users() -> None:
    made = producers(GRAPH)
    assert {name: node.op for name, node in made.items()} == {
        "a": "mul", "b": "add", "unused": "relu", "c": "sub", "loss": "dot",
    }  # fmt: skip
    read_by = {name: [node.op for node in nodes] for name, nodes in users(GRAPH).items()}
    assert read_by == {
        "x": ["mul"],
        "idle": [],
        "w": ["add"],
        "a": ["add", "relu", "sub"],
        "b": ["sub", "dot"],
        "unused": [],
        "c": ["dot"],
        "loss": [],
    }


def test_values_die_behind_their_last_reader() -> None:
    assert last_uses(GRAPH) == [("x",), ("w",), ("unused",), ("a",), ("b",)]


def test_values_die_once_and_are_never_read_again() -> None:
    graph = training_graph(3)
    dead: set[str] = set()
    for node, dying in zip(graph.nodes, last_uses(graph), strict=True):
        assert not dead & {v.name for v in node.inputs}
        assert not dead & set(dying)
        dead |= set(dying)
    returned = {v.name for v in graph.outputs}
    read_or_made = {v.name for node in graph.nodes for v in (*node.inputs, *node.outputs)}
    assert dead == read_or_made - returned


def test_what_leads_where() -> None:
    assert leads_to(GRAPH, {"w"}) == {"w", "b", "c", "loss"}
    assert leads_to(GRAPH, {"x"}) == {"x", "a", "b", "unused", "c", "loss"}
    assert leads_to(GRAPH, {"idle"}) == {"idle"}
    assert needed_for(GRAPH, {"unused"}) == {"unused", "a", "x"}
    assert needed_for(GRAPH, {"c"}) == {"c", "b", "a", "w", "x"}
    assert needed_for(GRAPH, set()) == set()


def test_values_are_listed_in_order() -> None:
    names = [v.name for v in all_values(GRAPH)]
    assert names == ["x", "idle", "w", "a", "b", "unused", "c", "loss"]


def test_the_networkx_view() -> None:
    view = to_networkx(GRAPH)
    assert view.name == "g"
    assert nx.is_directed_acyclic_graph(view)
    assert view.number_of_nodes() == 8 + 5
    assert view.nodes["w"] == {"kind": "value", "type": "f32[4,8]"}
    assert view.nodes["#1"] == {"kind": "op", "op": "add", "scope": "s"}
    assert set(view.predecessors("#3")) == {"a", "b"}
    assert set(view.successors("#3")) == {"c"}
    assert nx.descendants(view, "idle") == set()
    values = {n for n in nx.ancestors(view, "loss") if not n.startswith("#")}
    assert values | {"loss"} == needed_for(GRAPH, {"loss"})


def test_the_views_agree_on_a_training_step() -> None:
    graph = training_graph(3)
    view = to_networkx(graph)
    assert nx.is_directed_acyclic_graph(view)
    for source in ("tokens", "layers.1.mlp.up_proj.lora_A.weight", "lr"):
        reached = {n for n in nx.descendants(view, source) if not n.startswith("#")}
        assert reached | {source} == leads_to(graph, {source})


def test_renaming_reaches_every_place() -> None:
    renamed = rename(GRAPH, {"w": "v", "c": "d", "a": "a.old", "nobody": "somebody"})
    text = str(GRAPH)
    for old, new in (("%w", "%v"), ("%c", "%d"), ("%a", "%a.old")):
        text = text.replace(f"{old}:", f"{new}:").replace(f"{old},", f"{new},")
        text = text.replace(f"{old})", f"{new})").replace(f"{old} ", f"{new} ")
        text = text.replace(f"{old}\n", f"{new}\n")
    assert str(renamed) == text
    assert renamed.aliases == (Alias("d", "v"),)
    verify(renamed)
    assert rename(renamed, {"v": "w", "d": "c", "a.old": "a"}) == GRAPH
    assert rename(GRAPH, {}) == GRAPH


def test_values_are_mapped_with_their_types() -> None:
    doubled = map_values(
        GRAPH, {v: replace(v, type=tensor("f64", *v.type.shape)) for v in all_values(GRAPH)}
    )
    assert str(doubled) == str(GRAPH).replace("f32", "f64")
    verify(doubled)


def test_operands_are_substituted_and_results_are_not() -> None:
    a, x, w = (value(GRAPH, name) for name in "axw")
    add = GRAPH.nodes[1]
    assert substitute((a, x, a), {a: w}) == (w, x, w)
    assert with_inputs(add, {a: x}).inputs == (x, w)
    assert with_inputs(add, {add.outputs[0]: x}) == add


def test_inputs_by_role() -> None:
    assert [v.name for v in GRAPH.inputs_of(Role.INPUT)] == ["x", "idle"]
    assert [v.name for v in GRAPH.inputs_of(Role.PARAM, Role.INPUT)] == ["x", "idle", "w"]
    assert GRAPH.inputs_of(Role.STATE) == ()


def test_equality_is_by_content() -> None:
    again = parse_graph(str(GRAPH))
    assert again == GRAPH
    assert again is not GRAPH
    assert hash(again) == hash(GRAPH)
    assert replace(again, name="h") != GRAPH
    with pytest.raises(AttributeError):
        again.name = "h"  # type: ignore[misc]


MEMORY = read(
    """
    graph @g {
      input %x: f32[4,8]
      param %w: f32[4,8]
      %from_input: f32[4,2,4] = reshape(%x) {row=(2, 4)}
      %a: f32[4,8] = mul(%x, %x)
      %seen: f32[4,2,4] = reshape(%a) {row=(2, 4)}
      %again: f32[4,8] = reshape(%seen) {row=(8)}
      %b: f32[4,8] = relu(%a)
      %idle: f32[4,8] = relu(%b)
      %c: f32[4,8] = mul(%b, %again)
      %d: f32[4,2,4] = mul(%from_input, %from_input)
      %e: f32[4,8] = add(%c, %w)
      %f: f32[4,8] = add(%e, %w)
      return %d, %f -> %w
    }
    """
)


def test_views_lie_in_what_they_view_but_not_in_an_input() -> None:
    home = {name: value.name for name, value in storage(MEMORY).items()}
    assert home == {
        "x": "x", "w": "w", "from_input": "from_input", "a": "a", "seen": "a", "again": "a",
        "b": "b", "idle": "idle", "c": "c", "d": "d", "e": "e", "f": "w",
    }  # fmt: skip


def test_lifetimes_reach_to_the_last_reader_of_a_view() -> None:
    spans = {life.value.name: (life.begin, life.end) for life in lifetimes(MEMORY)}
    assert spans == {
        "from_input": (0, 7),
        "a": (1, 6),
        "b": (4, 6),
        "idle": (5, 5),  # nobody reads it, but it is made
        "c": (6, 8),
        "e": (8, 9),
    }


def test_live_bytes_count_operands_and_results() -> None:
    one = 4 * 8 * 4
    assert (live_bytes(MEMORY) / one).tolist() == [1, 2, 2, 2, 3, 4, 4, 2, 2, 1]
    aligned = live_bytes(MEMORY, alignment=256)
    assert (aligned / 256).tolist() == [1, 2, 2, 2, 3, 4, 4, 2, 2, 1]
    assert input_bytes(MEMORY) == 2 * one


def test_live_bytes_of_kernels_with_scratch_or_in_place() -> None:
    """Only the last reader gives its place: %a, %b die at %c, and %c dies at %e."""
    one = 4 * 8 * 4
    footprint = Footprint(lambda node: 5 * one if node.op == "relu" else 0, frozenset({"mul"}))
    assert (live_bytes(MEMORY, footprint) / one).tolist() == [1, 2, 2, 2, 8, 9, 3, 2, 2, 1]
    footprint = Footprint(in_place=frozenset({"add"}))
    assert (live_bytes(MEMORY, footprint) / one).tolist() == [1, 2, 2, 2, 3, 4, 4, 2, 1, 1]
