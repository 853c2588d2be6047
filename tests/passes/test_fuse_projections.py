"""Groups of few rows: which products become one node, and what stays outside."""

import pytest
from bitgraph.graph.ir import Graph
from bitgraph.graph.verify import verify
from bitgraph.passes.fuse.fuse import Fuse
from graphs import read

HEAD = """
graph @g {
  input %x: f32[ROWS,8]
  input %r: f32[ROWS,6]
  weight %n: f32[8]
  weight %v: t2[6,8]
  weight %w: t2[6,8]
  param %a: f32[2,8]
  param %b: f32[6,2]
  %normed: f32[ROWS,8] = rms_norm(%x, %n) {eps=1e-05}
  %codes: q8[ROWS,8] = quantize(%normed)
"""
GATE = """
  %gate: f32[ROWS,6] = ternary_matmul(%codes, %v)
  %up: f32[ROWS,6] = ternary_matmul(%codes, %w)
  %active: f32[ROWS,6] = silu(%gate)
  %z: f32[ROWS,6] = mul(%up, %active)
"""
ADAPTED = """
  %base: f32[ROWS,6] = ternary_matmul(%codes, %w)
  %raw: f32[ROWS,2] = matmul(%normed, %a) {transpose_b=true}
  %low: f32[ROWS,2] = scale(%raw) {factor=2.0}
  %back: f32[ROWS,6] = matmul(%low, %b) {transpose_b=true}
  %y: f32[ROWS,6] = add(%base, %back)
  %z: f32[ROWS,6] = add(%r, %y)
"""
CHAINED = """
  %y: f32[ROWS,6] = ternary_matmul(%codes, %v)
  %slope: f32[ROWS,6] = silu_slope(%y)
  %base: f32[ROWS,6] = ternary_matmul(%codes, %w)
  %z: f32[ROWS,6] = add(%base, %slope)
"""


def graph(body: str, rows: int = 1, results: str = "%z") -> Graph:
    return read(f"{HEAD}{body}  return {results}\n}}".replace("ROWS", str(rows)))


def groups(graph: Graph) -> dict[str, str]:
    """What each node gives, and its op or the pattern that made it."""
    fused = Fuse()(graph)
    verify(fused)
    kinds = [str(node.attributes.get("pattern", node.op)) for node in fused.nodes]
    names = (" ".join(value.name for value in node.outputs) for node in fused.nodes)
    return dict(zip(names, kinds, strict=True))


def test_one_row_and_its_norm_are_one_node() -> None:
    assert groups(graph(GATE)) == {"z": "projections"}
    assert groups(graph(ADAPTED)) == {"z": "projections"}


def test_several_rows_share_a_kernel_for_the_norm() -> None:
    assert groups(graph(GATE, 8)) == {"codes": "norm_quantize", "z": "projections"}


def test_but_their_narrow_products_stand_beside_it() -> None:
    assert groups(graph(ADAPTED, 8)) == {"z": "projections"}


def test_many_rows_are_left_to_other_patterns() -> None:
    assert "projections" not in groups(graph(GATE, 9)).values()
    assert groups(graph(ADAPTED, 9))["z"] == "products"


@pytest.mark.parametrize("value", ["normed", "codes", "raw", "low"])
def test_what_is_read_elsewhere_leaves_the_norm_outside(value: str) -> None:
    found = groups(graph(ADAPTED, results=f"%z, %{value}"))
    assert found["z"] == "products"


@pytest.mark.parametrize(("value", "outside"), [("gate", "z"), ("active", "active z")])
def test_a_gate_that_is_read_elsewhere_is_multiplied_outside(value: str, outside: str) -> None:
    found = groups(graph(GATE, results=f"%z, %{value}"))
    assert found == {"gate up": "projections", outside: "elementwise"}


def test_a_product_that_waits_for_another_is_not_in_its_group() -> None:
    """The second adds what follows from the first."""
    found = groups(graph(CHAINED))
    assert "projections" not in found.values()
    assert found["z"] == "products"
