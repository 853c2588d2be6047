"""Groups around products and updates: what is taken into them, and what is left alone."""

from collections import Counter

import pytest
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Node, Role, Value
from bitgraph.graph.types import tensor
from bitgraph.graph.verify import verify
from bitgraph.passes.fuse.fuse import Fuse
from graphs import read

PROJECTION = """
graph @g {
  input %x: f32[4,8]
  input %codes: q8[4,8]
  input %r: f32[4,6]
  weight %w: t2[6,8]
  param %a: f32[RANK,8]
  param %b: f32[6,RANK]
  %base: f32[4,6] = ternary_matmul(%codes, %w)
  %raw: f32[4,RANK] = matmul(%x, %a) {transpose_b=true}
  %low: f32[4,RANK] = scale(%raw) {factor=2.0}
  %up: f32[4,6] = matmul(%low, %b) {transpose_b=true}
  %y: f32[4,6] = add(%base, %up)
  %z: f32[4,6] = add(%r, %y)
  return RESULTS
}
"""


def projection(results: str = "%z", rank: int = 2) -> Graph:
    return read(PROJECTION.replace("RESULTS", results).replace("RANK", str(rank)))


def groups(graph: Graph) -> dict[str, str]:
    """Ops of the graph's nodes, with the pattern and the results of those that are fused."""
    fused = Fuse()(graph)
    verify(fused)
    return {" ".join(v.name for v in node.outputs): _kind(node) for node in fused.nodes}


def _kind(node: Node) -> str:
    return str(node.attributes.get("pattern", node.op))


def test_a_projection_is_two_nodes() -> None:
    assert groups(projection()) == {"low": "low_products", "z": "products"}


def test_a_sum_that_is_read_elsewhere_ends_the_group() -> None:
    assert groups(projection("%z, %y")) == {"low": "low_products", "y": "products", "z": "add"}


def test_a_product_that_is_read_elsewhere_stays_alone() -> None:
    found = groups(projection("%z, %base"))
    assert found["base"] == "ternary_matmul"
    assert "products" not in found.values()


def test_an_unscaled_product_that_is_read_elsewhere_stays_alone() -> None:
    found = groups(projection("%z, %raw"))
    assert found["raw"] == "matmul"
    assert found["low"] == "scale"


def test_ranks_up_to_64_are_narrow() -> None:
    assert groups(projection(rank=64)) == {"low": "low_products", "z": "products"}
    wide = groups(projection(rank=65))
    assert wide["low"] == "scale"
    assert wide["up"] == "matmul"  # and is what the product adds
    assert wide["y"] == "products"


TOGETHER = """
graph @g {
  input %codes: q8[20,8]
  input %r: f32[20,6]
  weight %v: t2[6,8]
  weight %w: t2[6,8]
  %gate: f32[20,6] = ternary_matmul(%codes, %v) FIRST
  %other: f32[20,6] = silu(%gate)
  %up: f32[20,6] = ternary_matmul(%codes, %w)
  %z: f32[20,6] = add(%up, %ADDED)
  return %gate, %other, %z
}
"""


def together(added: str, scope: str = "") -> dict[str, str]:
    return groups(read(TOGETHER.replace("ADDED", added).replace("FIRST", scope)))


def test_products_of_the_same_codes_are_one_node() -> None:
    assert together("r") == {"gate z": "products", "other": "silu"}
    assert together("gate") == {"gate z": "products", "other": "silu"}


def test_a_product_that_waits_for_another_is_apart() -> None:
    assert together("other") == {"gate": "ternary_matmul", "other": "silu", "z": "products"}


def test_a_product_that_is_computed_again_is_apart() -> None:
    found = together("r", "@layers.0/recompute")
    assert found == {"gate": "ternary_matmul", "other": "silu", "z": "products"}


def gradient(others: int, shared_low: bool = False) -> Graph:
    """dx of one adapted projection, with something else added so many times."""
    b = GraphBuilder("g")
    dy = b.add_input("dy", tensor("f32", 4, 6), Role.INPUT)
    w = b.add_input("w", tensor("t2", 6, 8), Role.WEIGHT)
    weights = [
        b.add_input(n, tensor("f32", *s), Role.PARAM) for n, s in (("b", (6, 2)), ("a", (2, 8)))
    ]
    raw = b.op("matmul", dy, weights[0], transpose_b=False, name="raw")
    low = b.op("scale", raw, factor=2.0, name="low")
    base = b.op("ternary_matmul_t", dy, w, name="base")
    total: Value = b.op("add", b.op("matmul", low, weights[1], transpose_b=False), base)
    for k in range(others):
        total = b.op("add", total, b.add_input(f"o{k}", tensor("f32", 4, 8), Role.INPUT))
    total = b.op("silu", total, name="dx")
    return b.finish((total, low, raw) if shared_low else (total, low))


@pytest.mark.parametrize("others", [0, 1])
def test_a_gradient_takes_one_other_thing_in(others: int) -> None:
    found = groups(gradient(others))
    assert Counter(found.values()) == {"product_gradients": 1, "silu": 1}


def test_a_gradient_with_two_other_things_stays_apart() -> None:
    assert "product_gradients" not in groups(gradient(2)).values()


def test_a_gradient_whose_narrow_product_is_read_elsewhere_stays_apart() -> None:
    assert "product_gradients" not in groups(gradient(0, shared_low=True)).values()


def updates(count: int, decays: tuple[float, ...]) -> Graph:
    b = GraphBuilder("g")
    scalars = [
        b.add_input(n, tensor(t), Role.INPUT) for n, t in (("c", "f32"), ("l", "f32"), ("s", "i32"))
    ]
    results: list[Value] = []
    for k in range(count):
        p, g, m, v = (b.add_input(f"{n}{k}", tensor("f32", 3), Role.INPUT) for n in "pgmv")
        options = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
        decay = decays[k % len(decays)]
        results += b.ops("adamw", p, g, m, v, *scalars, **options, weight_decay=decay)
    return b.finish(tuple(results))


def test_sixteen_updates_are_one_node() -> None:
    nodes = Fuse()(updates(35, (0.0,))).nodes
    assert [len(node.outputs) for node in nodes] == [48, 48, 9]


def test_updates_with_other_options_are_apart() -> None:
    nodes = Fuse()(updates(4, (0.0, 0.1))).nodes
    assert [len(node.outputs) for node in nodes] == [6, 6]
