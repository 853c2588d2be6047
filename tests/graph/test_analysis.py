"""What is derived from graphs, and small rewrites."""

from dataclasses import replace

import networkx as nx
import pytest
from bitgraph.graph.analysis import (
    all_values,
    last_uses,
    leads_to,
    needed_for,
    producers,
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
