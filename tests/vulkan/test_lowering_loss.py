"""The cross-entropy and its gradient on Vulkan against NumPy: planned, split, and on a device."""

from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.draws import constant, operand
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.passes.fuse.fuse import Fuse
from op_cases import assert_close, fixed_cases, one_op_graph
from vulkan_cases import RUNS, Run, device_limits, run_on_device, values_of

LOSS, GRAD = OPS["linear_cross_entropy"], OPS["linear_cross_entropy_grad"]
TABLE_GRAD = OPS["linear_cross_entropy_table_grad"]
ALL = (LOSS, GRAD, TABLE_GRAD)
TOLERANCE = 2e-5
"""Beside the largest element: exponentials, and sums of thousands of terms in another order."""
FLOOR = 1e-3
"""Of what is compared with, as there may be no label at all."""
SPLIT = Limits(max_range=1 << 18, alignment=256, max_groups=20)
"""Limits that split the larger tables."""
LARGE = Limits(shared_memory=32768)
UNITS = Limits(shared_memory=49152, features=frozenset({"cooperative_matrix_f16"}))
UNITS_TOLERANCE = 5e-4
"""Of gradients on matrix units, which take probabilities and h as f16."""


def case_of(
    op: OpDef, rows: int, width: int, vocabulary: int, dtype: str, labels: list[int]
) -> Case:
    """A case with given labels, repeated for all rows."""
    case = op.cases.make(rows, width, vocabulary, *((0,) if op is LOSS else ()))
    table = operand(dtype, vocabulary, width)
    given = operand("i32", rows, draw=constant(lambda: np.resize(labels, rows)))
    if op is LOSS:
        return Case((case.operands[0], table, given))
    spread, peak, h, _, _, lse = case.operands
    return Case((spread, peak, h, table, given, lse))


def assert_right(
    op: OpDef, case: Case, run: Run, limits: Limits, tolerance: float = TOLERANCE
) -> None:
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    outputs = run(graph, values, limits)
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, tolerance, FLOOR)


@pytest.mark.parametrize("limits", [SPLIT, LARGE], ids=["split", "large"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases(ALL))
def test_fixed_cases(op: OpDef, case: Case, run: Run, limits: Limits) -> None:
    assert_right(op, case, run, limits)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
@pytest.mark.parametrize(
    "sizes",
    [
        (130, 12, 1030, "f16", [-1, 3, 1029, -1, -7, 128, 127]),
        (300, 33, 700, "f32", [5, -1, 699]),
        (70, 7, 301, "f16", [300, 0, 299]),
        (4, 8, 9, "f32", [-1]),
        (300, 4, 200, "f16", [-1] * 290 + [1] * 10),
    ],
    ids=lambda sizes: "x".join(map(str, sizes[:4])),
)
def test_labels(op: OpDef, sizes: tuple[int, int, int, str, list[int]], run: Run) -> None:
    if op is TABLE_GRAD:
        sizes = (*sizes[:3], "f32", sizes[4])
    assert_right(op, case_of(op, *sizes), run, LARGE)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("labels", [[-1, 5, 8], [3]], ids=["some", "all"])
@pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "cut"])
def test_table_gradients_of_many_rows(is_cut: bool, labels: list[int], run: Run) -> None:
    """The list of rows is cut, and so is the table where its logits are large for the device."""
    limits = replace(LARGE, max_range=1 << (20 if is_cut else 27))
    case = case_of(TABLE_GRAD, 1500, 20, 500 if is_cut else 100, "f32", labels)
    plan = make_plan(one_op_graph(TABLE_GRAD, case), limits)
    kernels = [dispatch.kernel for dispatch in plan.schedule.dispatches]
    assert kernels.count("table_grad") == (4 if is_cut else 1)
    assert kernels[-1] == "sum_parts"
    assert_right(TABLE_GRAD, case, run, limits)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("max_range", [1 << 27, 1 << 18], ids=["whole", "cut"])
def test_both_gradients_share_a_softmax(max_range: int, run: Run) -> None:
    limits = replace(LARGE, max_range=max_range)
    case = case_of(TABLE_GRAD, 300, 33, 700, "f32", [5, -1, 699])
    b = GraphBuilder("gradients")
    operands = [b.add_input(f"x{k}", item.type, Role.INPUT) for k, item in enumerate(case.operands)]
    both = b.finish((b.op(GRAD.name, *operands), b.op(TABLE_GRAD.name, *operands)))
    graph = Fuse()(both)
    assert [node.attributes["pattern"] for node in graph.nodes] == ["loss_gradients"]
    kernels = [dispatch.kernel for dispatch in make_plan(graph, limits).schedule.dispatches]
    assert kernels.count("logits_grad_f32") == kernels.count("table_grad")
    assert (kernels.count("table_grad") == 1) == (max_range == 1 << 27)
    values = values_of(graph, case)
    outputs = run(graph, values, limits)
    for name, want in evaluate(both, values).items():
        assert_close(outputs[name], want, TOLERANCE, FLOOR)


@pytest.mark.parametrize("run", RUNS)
def test_logits_far_apart(run: Run) -> None:
    """Softmax over logits of which the largest are hundreds above the others."""
    case = case_of(LOSS, 20, 4, 300, "f16", [2, 299])
    graph = one_op_graph(LOSS, case)
    values = values_of(graph, case)
    values["x0"] = 300 * np.asarray(values["x0"])
    outputs = run(graph, values, LARGE)
    for name, want in evaluate(graph, values).items():
        assert np.isfinite(want).all()
        assert_close(outputs[name], want, TOLERANCE)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", [LOSS, GRAD], ids=lambda op: op.name)
@pytest.mark.parametrize(
    ("sizes", "max_range"),
    [
        ((200, 64, 4096, "f16", [-1, 5, 4095, 1024, -1, 1023]), 1 << 17),
        ((3, 32, 96, "f16", [95, -1, 0]), 1 << 27),
        ((300, 160, 2080, "f16", [2079, 1]), 1 << 19),
    ],
    ids=["200x64x4096", "3x32x96", "300x160x2080"],
)
def test_matrix_units(
    op: OpDef, sizes: tuple[int, int, int, str, list[int]], max_range: int, run: Run
) -> None:
    if run is run_on_device and not UNITS.features <= device_limits().features:
        pytest.skip("needs a device with cooperative matrices of f16")
    limits = replace(UNITS, max_range=max_range)
    graph = one_op_graph(op, case_of(op, *sizes))
    assert any(d.kernel.endswith("_cm") for d in make_plan(graph, limits).schedule.dispatches)
    tolerance = TOLERANCE if op is LOSS else UNITS_TOLERANCE
    assert_right(op, case_of(op, *sizes), run, limits, tolerance)
