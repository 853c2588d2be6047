"""Ops that move rows on Vulkan equal NumPy's bit for bit: planned and shuffled, and on a device."""

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.ir import Graph
from bitgraph.graph.ops import FAMILIES, OPS
from bitgraph.graph.ops.draws import distinct, integers, operand
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue
from bitgraph.graph.types import GraphError
from op_cases import assert_same_bits, fixed_cases, one_op_graph
from vulkan_cases import (
    FOLDED,
    RUNS,
    SPLIT,
    Run,
    check_case,
    check_random_cases,
    in_place,
    run_on_device,
    values_of,
)

FAMILY = FAMILIES["embedding"]
SCRAPS = Limits(max_range=256, alignment=16, max_groups=5)
"""A few rows at a time."""


def assert_same(graph: Graph, values: dict[str, HostValue], outputs: dict[str, HostValue]) -> None:
    for name, want in evaluate(graph, values).items():
        assert_same_bits(outputs[name], want)


def kernels_of(graph: Graph, limits: Limits) -> list[str]:
    return [dispatch.kernel for dispatch in make_plan(graph, limits).schedule.dispatches]


@pytest.mark.parametrize("limits", [Limits(), FOLDED, SPLIT], ids=["large", "folded", "split"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases(FAMILY))
def test_fixed_cases(op: OpDef, case: Case, run: Run, limits: Limits) -> None:
    check_case(op, case, run, assert_same, limits)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", FAMILY, ids=lambda op: op.name)
def test_random_cases(op: OpDef, run: Run) -> None:
    check_random_cases(op, run, assert_same)


def gathering(dtype: str, rows: int, columns: int, count: int) -> Case:
    ids = operand("i32", count, draw=integers(0, rows))
    return Case((operand(dtype, rows, columns), ids))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("columns", [1, 4, 5, 6, 12, 31])
def test_tables_in_parts(dtype: str, columns: int, run: Run) -> None:
    case = gathering(dtype, 97, columns, 9)
    graph = one_op_graph(OPS["gather_rows"], case)
    values = values_of(graph, case)
    large, small = Limits(), Limits(max_range=2048, alignment=16, max_groups=5)
    assert kernels_of(graph, large) == [f"gather_rows_{dtype}"]
    assert (len(kernels_of(graph, small)) > 1) == (values["x0"].nbytes > 2048)
    for limits in (large, small):
        assert_same(graph, values, run(graph, values, limits))


@pytest.mark.parametrize("run", RUNS)
def test_half_floats_of_every_kind(run: Run) -> None:
    """All 65,536 of them: denormals, infinities and NaN too, which stay NaN."""
    table = np.arange(65_536, dtype=np.uint16).view(np.float16).reshape(256, 256)
    graph = one_op_graph(OPS["gather_rows"], gathering("f16", 256, 256, 256))
    values: dict[str, HostValue] = {"x0": table, "x1": np.arange(255, -1, -1, dtype=np.int32)}
    (got,) = run(graph, values).values()
    assert isinstance(got, np.ndarray)
    np.testing.assert_array_equal(got, table[::-1].astype(np.float32))


def test_ids_outside_the_table_read_nothing() -> None:
    """Their rows stay as they were, poisoned; what is around them is right."""
    case = gathering("f32", 4, 8, 5)
    graph = one_op_graph(OPS["gather_rows"], case)
    values = values_of(graph, case)
    values["x1"] = np.array([3, -1, 0, 4, 2**31 - 1], np.int32)
    (got,) = run_on_device(graph, values).values()
    assert isinstance(got, np.ndarray)
    assert np.all(np.isnan(got[[1, 3, 4]]))
    np.testing.assert_array_equal(got[[0, 2]], np.asarray(values["x0"])[[3, 0]])


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("limits", [Limits(), SCRAPS], ids=["large", "scraps"])
def test_rows_that_meet_are_added_in_order(limits: Limits, run: Run) -> None:
    """Bit for bit: numbers of very different sizes, of which any other order would lose some."""
    rng = np.random.default_rng(0)
    count, columns = (700, 5) if limits is not SCRAPS else (12, 5)
    x = (rng.standard_normal((count, columns)) * 10.0 ** rng.integers(-6, 6, (count, 1))).astype(
        np.float32
    )
    ids = rng.choice(np.array([0, 1, 29], np.int32), count)
    case = Case((operand("f32", count, columns), operand("i32", count)), {"rows": 30})
    graph = one_op_graph(OPS["scatter_add_rows"], case)
    values: dict[str, HostValue] = {"x0": x, "x1": ids}
    assert (len(kernels_of(graph, limits)) > 1) == (limits is SCRAPS)
    assert_same(graph, values, run(graph, values, limits))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("columns", [3, 256, 700])
def test_many_rows_that_meet(columns: int, run: Run) -> None:
    """More ids than a workgroup looks at in one go, most of them the same."""
    rng = np.random.default_rng(0)
    count = 2500
    ids = np.where(rng.random(count) < 0.7, 2, rng.integers(0, 9, count)).astype(np.int32)
    case = Case((operand("f32", count, columns), operand("i32", count)), {"rows": 9})
    graph = one_op_graph(OPS["scatter_add_rows"], case)
    values = {**values_of(graph, case), "x1": ids}
    assert_same(graph, values, run(graph, values))


def writing(rows: int, columns: int, count: int) -> Case:
    return Case(
        (
            operand("f32", rows, columns),
            operand("f32", count, columns),
            operand("i32", count, draw=distinct(rows)),
        )
    )


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("limits", [Limits(), SCRAPS], ids=["large", "scraps"])
@pytest.mark.parametrize(("columns", "count"), [(4, 1), (5, 3), (8, 7)])
def test_caches_are_written_in_place(columns: int, count: int, limits: Limits, run: Run) -> None:
    case = writing(40, columns, count)
    graph = in_place(one_op_graph(OPS["write_rows"], case), (0, 0))
    values = values_of(graph, case)
    assert set(kernels_of(graph, limits)) == {"write_rows"}
    assert_same(graph, values, run(graph, values, limits))


@pytest.mark.parametrize("run", RUNS)
def test_the_last_of_several_rows_for_a_slot_counts(run: Run) -> None:
    case = writing(600, 6, 600)
    graph = one_op_graph(OPS["write_rows"], case)
    values = values_of(graph, case)
    values["x2"] = np.random.default_rng(0).integers(0, 5, 600).astype(np.int32)
    assert_same(graph, values, run(graph, values))


def test_a_cache_cannot_take_the_place_of_another() -> None:
    case = writing(4, 3, 4)
    graph = in_place(one_op_graph(OPS["write_rows"], case), (0, 1))
    with pytest.raises(GraphError, match="cannot take the place of %x1"):
        make_plan(graph, Limits())
