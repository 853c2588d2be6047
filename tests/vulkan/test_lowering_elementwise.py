"""Elementwise ops on Vulkan against NumPy: planned and shuffled, and on a device."""

from collections.abc import Callable

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.kernels import kernel
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Alias, Graph, Role, Value
from bitgraph.graph.ops import FAMILIES, OPS
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import Array, HostValue
from bitgraph.graph.types import GraphError, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import assert_close, assert_same_bits, fixed_cases, one_op_graph, random_cases
from vulkan_cases import FOLDED, RUNS, SPLIT, Run, run_on_device, values_of

FAMILY = FAMILIES["elementwise"]
TOLERANCE = {"silu": 5e-7, "silu_slope": 5e-7, "dot": 1e-6, "row_dot": 1e-6}
"""Beside the largest element; what is not here is exact. dot is judged beside the sum of the
products' magnitudes.
"""


def assert_right(
    op: OpDef, graph: Graph, values: dict[str, HostValue], outputs: dict[str, HostValue]
) -> None:
    (want,), (got,) = evaluate(graph, values).values(), outputs.values()
    if op.name not in TOLERANCE:
        assert_same_bits(got, want)
        return
    floor = 0.0
    if op.name == "dot":
        a, b = (np.asarray(value, np.float64) for value in values.values())
        floor = float(np.sum(np.abs(a * b)))
    assert_close(got, want, TOLERANCE[op.name], floor)


def unary(op: str, x: Array, **attrs: float) -> tuple[Graph, dict[str, HostValue]]:
    b = GraphBuilder("unary")
    value = b.add_input("x", tensor("f32", *x.shape), Role.INPUT)
    return b.finish((b.op(op, value, name="y", **attrs),)), {"x": x}


@pytest.mark.parametrize("small", [False, True], ids=["", "small"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases(FAMILY))
def test_fixed_cases(op: OpDef, case: Case, run: Run, small: bool) -> None:
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    limits = (FOLDED if op.name == "row_dot" else SPLIT) if small else Limits()
    assert_right(op, graph, values, run(graph, values, limits))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", FAMILY, ids=lambda op: op.name)
def test_random_cases(op: OpDef, run: Run) -> None:
    @settings(max_examples=3, derandomize=True, deadline=None)
    @given(random_cases(op), st.integers(0, 2**16))
    def check(case: Case, seed: int) -> None:
        graph = one_op_graph(op, case)
        values = values_of(graph, case, seed)
        assert_right(op, graph, values, run(graph, values))

    check()


@pytest.mark.parametrize("op", FAMILY, ids=lambda op: op.name)
def test_every_op_has_its_own_kernel_for_all_of_its_operands(op: OpDef) -> None:
    graph = one_op_graph(op, op.cases.all()[-1])
    dispatches = make_plan(graph, Limits()).schedule.dispatches
    assert dispatches
    for dispatch in dispatches:
        assert len(dispatch.bindings) == len(kernel(dispatch.kernel).parameters)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("count", [6, 8])
@pytest.mark.parametrize("op", ["relu", "squared_relu", "silu", "silu_slope"])
def test_extremes_of_activations(op: str, count: int, run: Run) -> None:
    x = np.resize(np.array([0.0, -100, 100, -1e4, 1e4, -0.0], np.float32), count)
    graph, values = unary(op, x)
    (got,) = run(graph, values).values()
    with np.errstate(over="ignore", under="ignore"):
        (want,) = evaluate(graph, values).values()
    assert np.all(np.isfinite(got))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("count", [5, 8])
@pytest.mark.parametrize("op", ["relu", "squared_relu", "silu", "silu_slope"])
def test_activations_do_not_hide_nan(op: str, count: int, run: Run) -> None:
    x = np.ones(count, np.float32)
    x[[1, 4]] = np.nan, -np.nan
    (y,) = run(*unary(op, x)).values()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", ["add", "mul", "dot"])
def test_one_value_as_both_operands(op: str, run: Run) -> None:
    b = GraphBuilder("twice")
    x = b.add_input("x", tensor("f32", 3, 5), Role.INPUT)
    graph = b.finish((b.op(op, x, x),))
    values: dict[str, HostValue] = {"x": np.arange(15, dtype=np.float32).reshape(3, 5)}
    (got,) = run(graph, values).values()
    np.testing.assert_array_equal(got, *evaluate(graph, values).values())


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("count", [4096, 4097, 300_000])
def test_dot_of_terms_that_cancel(count: int, run: Run) -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal((1, count)).astype(np.float32) for name in ("x0", "x1")}
    values["x1"][0, -1] = 1e4
    graph = one_op_graph(OPS["dot"], OPS["dot"].cases.make(1, count))
    want = np.dot(*(value[0].astype(np.float64) for value in values.values()))
    terms = np.abs(values["x0"].astype(np.float64) * values["x1"]).sum()
    (got,) = run(graph, values).values()
    assert abs(float(np.asarray(got)) - want) <= 3e-7 * terms


def test_dot_is_the_same_every_time() -> None:
    case = OPS["dot"].cases.make(33, 2560)
    graph = one_op_graph(OPS["dot"], case)
    values = values_of(graph, case)
    (first,) = run_on_device(graph, values).values()
    for _ in range(3):
        (again,) = run_on_device(graph, values).values()
        assert_same_bits(first, again)


def reshapes(build: Callable[[GraphBuilder, Value], tuple[Value, ...]]) -> Graph:
    b = GraphBuilder("reshapes")
    return b.finish(build(b, b.add_input("x", tensor("f32", 4, 6), Role.INPUT)))


def of_input(b: GraphBuilder, x: Value) -> tuple[Value, ...]:
    return (b.op("reshape", x, row=(3, 2)),)


def of_input_twice(b: GraphBuilder, x: Value) -> tuple[Value, ...]:
    y = b.op("reshape", x, row=(3, 2))
    return x, y, b.op("reshape", y, row=(2, 3))


def between(b: GraphBuilder, x: Value) -> tuple[Value, ...]:
    y = b.op("reshape", b.op("scale", x, factor=2.0), row=(3, 2))
    return (b.op("add", b.op("reshape", y, row=(6,)), x),)


def last_of_two_outputs(b: GraphBuilder, x: Value) -> tuple[Value, ...]:
    y = b.op("scale", x, factor=2.0)
    return y, b.op("reshape", y, row=(3, 2))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("build", [of_input, of_input_twice, between, last_of_two_outputs])
def test_reshapes(build: Callable[..., tuple[Value, ...]], run: Run) -> None:
    graph = reshapes(build)
    values: dict[str, HostValue] = {"x": np.arange(24, dtype=np.float32).reshape(4, 6)}
    outputs = run(graph, values)
    for name, want in evaluate(graph, values).items():
        assert_same_bits(outputs[name], want)


def test_a_reshape_costs_nothing_between_nodes() -> None:
    dispatches = make_plan(reshapes(between), Limits()).schedule.dispatches
    assert [dispatch.kernel for dispatch in dispatches] == ["scale", "add"]


@pytest.mark.parametrize("run", RUNS)
def test_a_reshaped_input_keeps_its_old_contents_when_the_input_is_written_over(run: Run) -> None:
    b = GraphBuilder("overwritten")
    old = b.add_input("x", tensor("f32", 4, 6), Role.STATE)
    rows = b.add_input("rows", tensor("f32", 1, 6), Role.INPUT)
    slots = b.add_input("slots", tensor("i32", 1), Role.INPUT)
    before = b.op("reshape", old, row=(3, 2))
    new = b.op("write_rows", old, rows, slots, name="new")
    graph = b.finish((before, new), (Alias("new", "x"),))
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    values: dict[str, HostValue] = {
        "x": x,
        "rows": np.full((1, 6), -1, np.float32),
        "slots": np.array([2], np.int32),
    }
    outputs = run(graph, values)
    np.testing.assert_array_equal(outputs[before.name], x.reshape(4, 3, 2))
    np.testing.assert_array_equal(outputs["new"], np.where(np.arange(4)[:, None] == 2, -1, x))


@pytest.mark.parametrize("run", RUNS)
def test_a_reshape_that_takes_an_inputs_place(run: Run) -> None:
    b = GraphBuilder("into_state")
    x = b.add_input("x", tensor("f32", 4, 6), Role.INPUT)
    b.add_input("state", tensor("f32", 4, 2, 3), Role.STATE)
    y = b.op("reshape", b.op("scale", x, factor=3.0), row=(2, 3), name="y")
    graph = b.finish((y,), (Alias("y", "state"),))
    state = np.zeros((4, 2, 3), np.float32)
    values: dict[str, HostValue] = {"x": np.ones((4, 6), np.float32), "state": state}
    assert make_plan(graph, Limits()).slices["y"].buffer == "state"
    np.testing.assert_array_equal(run(graph, values)["y"], np.full((4, 2, 3), 3, np.float32))


def test_numbers_of_64_bits_are_refused() -> None:
    b = GraphBuilder("wide")
    x = b.add_input("x", tensor("f64", 4), Role.INPUT)
    graph = b.finish((b.op("add", x, x),))
    with pytest.raises(GraphError, match=r"add: a is f32\[4\], got f64\[4\]"):
        make_plan(graph, Limits())
