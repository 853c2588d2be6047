"""Results that take the place of an operand: when they may, and that they are then right."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan import inplace, kernels
from bitgraph.backends.vulkan.kernels import all_kernels, kernel
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.lowering import lower_calls
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.backends.vulkan.runner import run_plan
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.tensors import HostValue
from bitgraph.graph.types import tensor
from graphs import read
from op_cases import assert_close, assert_same_bits
from vulkan_cases import RUNS, SPLIT

Run: TypeAlias = Callable[..., dict[str, HostValue]]


def shares(text: str, first: str, second: str, limits: Limits | None = None) -> bool:
    """Whether two values of a graph have the same bytes."""
    slices = make_plan(read(text), limits or Limits()).slices
    return slices[first] == slices[second]


RESIDUAL = """
    graph @g {
      input %x: f32[3,8]
      weight %w: t2[8,8]
      %a: f32[3,8] = ternary_matmul(%x, %w)
      %b: f32[3,8] = ternary_matmul(%a, %w)
      %c: f32[3,8] = add(%a, %b)
      %y: f32[3,8] = ternary_matmul(%c, %w)
      return %y
    }
"""


def test_a_residual_sum_grows_where_it_is() -> None:
    assert shares(RESIDUAL, "a", "c")
    assert make_plan(read(RESIDUAL), Limits(alignment=16)).arena_bytes == 2 * 96


@pytest.mark.parametrize(
    ("old", "new", "operand"),
    [
        pytest.param("ternary_matmul(%c, %w)", "add(%a, %c)", "a", id="operand read again"),
        pytest.param("return %y", "return %y, %a", "a", id="operand returned"),
        pytest.param("add(%a, %b)", "ternary_matmul(%b, %w)", "b", id="product"),
        pytest.param("add(%a, %b)", "add(%x, %x)", "x", id="operand from outside"),
        pytest.param("return %y", "return %c", "a", id="result returned"),
    ],
)
def test_a_place_is_taken_only_where_nothing_is_lost(old: str, new: str, operand: str) -> None:
    assert not shares(RESIDUAL.replace(old, new), operand, "c")


def test_one_value_as_both_operands_gives_its_place() -> None:
    assert shares(RESIDUAL.replace("add(%a, %b)", "mul(%b, %b)"), "b", "c")


def test_a_place_is_given_once_and_passed_on() -> None:
    text = """
        graph @g {
          input %x: f32[3,8]
          %a: f32[3,8] = scale(%x) {factor=2.0}
          %b: f32[3,8] = silu(%a)
          %r: f32[3,2,4] = reshape(%b) {row=(2, 4)}
          %c: f32[3,2,4] = squared_relu(%r)
          %y: f32[3,2,4] = silu(%c)
          return %y
        }
    """
    plan = make_plan(read(text), Limits())
    assert plan.slices["a"] == plan.slices["b"] == plan.slices["r"] == plan.slices["c"]
    assert plan.arena_bytes == plan.lower_bound == 256


def test_a_node_that_is_cut_takes_its_place_run_by_run() -> None:
    text = """
        graph @g {
          input %x: f32[3000,8]
          %a: f32[3000,8] = relu(%x)
          %b: f32[3000,8] = silu(%x)
          %c: f32[3000,8] = add(%a, %b)
          %y: f32[3000,8] = relu(%c)
          return %y
        }
    """
    calls = lower_calls(read(text), SPLIT).calls
    assert [call.kernel for call in calls] == [
        k for k in ("relu", "silu", "add", "relu") for _ in "12"
    ]
    places = inplace.taken_places(calls, lambda value: value, {"x", "y"})
    assert {name: old.name for name, old in places.items()} == {"c": "a"}
    # The runs of a node may come in any order, but all of them before the result is read.
    shuffled = [*calls[:4], calls[5], calls[4], *calls[6:]]
    assert inplace.taken_places(shuffled, lambda value: value, {"x", "y"}) == places
    interleaved = [*calls[:4], calls[4], calls[6], calls[5], calls[7]]
    assert inplace.taken_places(interleaved, lambda value: value, {"x", "y"}) == {}


ELEMENTWISE = {
    "add": 2, "sub": 2, "mul": 2, "scale": 1, "mul_scalar": 1, "relu": 1, "squared_relu": 1,
    "silu": 1, "silu_slope": 1, "rope": 1,
}  # fmt: skip
"""Kernels that may work in place, by the op of their name, and over how many operands."""

ATTRIBUTES = {"scale": {"factor": 3.0}, "rope": {"inverse": True}}


def test_these_kernels_work_in_place() -> None:
    marked = {
        name: len(parameter.over)
        for name in all_kernels()
        for parameter in kernel(name).parameters
        if parameter.over and name in ELEMENTWISE
    }
    assert marked == ELEMENTWISE


def in_place_graph(op: str, operand: int, width: int) -> Graph:
    """``relu(op(scaled operands))``: one operand dies, the others are returned."""
    b = GraphBuilder("g")
    heads = (2,) if op == "rope" else ()
    x = b.add_input("x", tensor("f32", 5, *heads, width), Role.INPUT)
    operands = [b.op("scale", x, factor=1.0 + k) for k in range(ELEMENTWISE[op])]
    extra = {"mul_scalar": ("s", ()), "rope": ("table", (5, width))}.get(op)
    if extra is not None:
        operands.append(b.add_input(extra[0], tensor("f32", *extra[1]), Role.INPUT))
    y = b.op(op, *operands, name="y", **ATTRIBUTES.get(op, {}))
    kept = [v for k, v in enumerate(operands) if k != operand and extra is None]
    return b.finish((b.op("scale", y, factor=2.0), *kept))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("width", [6, 128])
@pytest.mark.parametrize(
    ("op", "operand"), [(op, k) for op, count in ELEMENTWISE.items() for k in range(count)]
)
def test_results_in_place_are_right(op: str, operand: int, width: int, run: Run) -> None:
    graph = in_place_graph(op, operand, width)
    slices = make_plan(graph, Limits()).slices
    (node,) = (node for node in graph.nodes if node.outputs[0].name == "y")
    assert slices["y"] == slices[node.inputs[operand].name]
    rng = np.random.default_rng(operand)
    values: dict[str, HostValue] = {
        item.value.name: rng.standard_normal(item.value.type.shape).astype(np.float32)
        for item in graph.inputs
    }
    got, wanted = run(graph, values), evaluate(graph, values)
    for name, want in wanted.items():
        assert_close(got[name], want, 1e-6)


def test_a_place_that_is_taken_too_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
        graph @g {
          input %x: f32[3,8]
          %a: f32[3,8] = scale(%x) {factor=3.0}
          %b: f32[3,8] = silu(%a)
          %y: f32[3,8] = mul(%a, %b)
          return %y
        }
    """
    graph, rng = read(text), np.random.default_rng(0)
    values: dict[str, HostValue] = {"x": rng.standard_normal((3, 8)).astype(np.float32)}
    (want,) = evaluate(graph, values).values()
    (right,) = run_plan(make_plan(graph, Limits()), graph, values, rng).values()
    assert_same_bits(right, want)
    monkeypatch.setattr(inplace, "_follows", lambda *_: True)
    (wrong,) = run_plan(make_plan(graph, Limits()), graph, values, rng).values()
    assert np.any(np.asarray(wrong) != np.asarray(want))


HEAD = """
// planted: y = x.
//
// Bindings:
//   0 read  x f32[COUNT]
//   1 {access} y {type} over {operands}
layout(constant_id = 0) const uint COUNT = 1;
"""


@pytest.mark.parametrize(
    ("access", "type", "operands"),
    [
        ("write", "f32[COUNT]", "z"),
        ("write", "f32[COUNT]", "x or z"),
        ("write", "f32[COUNT,2]", "x"),
        ("write", "u32[COUNT]", "x"),
        ("update", "f32[COUNT]", "x"),
    ],
)
def test_a_promise_that_cannot_hold_is_refused(
    access: str, type: str, operands: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = HEAD.format(access=access, type=type, operands=operands)
    monkeypatch.setattr(kernels, "shader_source", lambda _: text)
    with pytest.raises(BitgraphError, match="y cannot be written over"):
        kernel.__wrapped__("planted")


def test_a_promise_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD.format(access="write", type="f32[COUNT]", operands="x")
    monkeypatch.setattr(kernels, "shader_source", lambda _: text)
    assert [p.over for p in kernel.__wrapped__("planted").parameters] == [(), ("x",)]
