"""Normalization on Vulkan against NumPy: planned and shuffled, and on a device."""

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.ir import Graph
from bitgraph.graph.ops import FAMILIES, OPS
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue
from op_cases import assert_close, assert_same_bits, fixed_cases, one_op_graph
from vulkan_cases import FOLDED, RUNS, Run, check_case, check_random_cases, run_on_device, values_of

FAMILY = FAMILIES["norm"]
TOLERANCE = 2e-6
"""Beside the largest element: sums of up to 6912 squares in another order."""


def assert_right(graph: Graph, values: dict[str, HostValue], outputs: dict[str, HostValue]) -> None:
    (want,), (got,) = evaluate(graph, values).values(), outputs.values()
    floor = 0.0
    if graph.name == "rms_norm_grad":  # in narrow rows its two terms all but cancel
        dy, x, weight = (np.asarray(value) for value in values.values())
        rms = np.sqrt(np.mean(x * x, axis=1, keepdims=True) + 1e-5)
        floor = float(np.max(np.abs(dy * weight / rms)))
    assert_close(got, want, TOLERANCE, floor)


@pytest.mark.parametrize("limits", [Limits(), FOLDED], ids=["large", "folded"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases(FAMILY))
def test_fixed_cases(op: OpDef, case: Case, run: Run, limits: Limits) -> None:
    check_case(op, case, run, assert_right, limits)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", FAMILY, ids=lambda op: op.name)
def test_random_cases(op: OpDef, run: Run) -> None:
    check_random_cases(op, run, assert_right)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("size", [1e-20, 1e-3, 1e10])
@pytest.mark.parametrize("op", FAMILY, ids=lambda op: op.name)
def test_rows_of_all_sizes(op: OpDef, size: float, run: Run) -> None:
    """Beside an ordinary row: what stands before the FFN's norm reaches 1e10 on real text."""
    case = op.cases.make(3, 300)
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    x = values["x0" if op.name == "rms_norm" else "x1"]
    assert isinstance(x, np.ndarray)
    x[1] *= np.float32(size)
    outputs = run(graph, values)
    (want,), (got,) = evaluate(graph, values).values(), outputs.values()
    assert np.all(np.isfinite(got))
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-6 * np.abs(want[-1]).max())


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", FAMILY, ids=lambda op: op.name)
def test_a_row_of_zeros(op: OpDef, run: Run) -> None:
    case = op.cases.make(2, 8)
    graph = one_op_graph(op, case)
    values = {name: np.array(value) for name, value in values_of(graph, case).items()}
    values["x0" if op.name == "rms_norm" else "x1"][0] = 0
    assert_right(graph, values, run(graph, values))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("op", ["rms_norm", "rms_norm_grad"])
def test_what_is_not_finite_stays_in_its_row_and_is_not_hidden(
    op: str, bad: float, run: Run
) -> None:
    case = OPS[op].cases.make(4, 300)
    graph = one_op_graph(OPS[op], case)
    values = {name: np.array(value) for name, value in values_of(graph, case).items()}
    values["x0"][2, 299] = bad
    (y,) = run(graph, values).values()
    assert isinstance(y, np.ndarray)
    np.testing.assert_array_equal(np.isfinite(y).all(axis=1), [True, True, False, True])


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("sizes", [(128, 5), (1000, 33), (777, 256)], ids=str)
def test_the_gradient_of_a_weight_is_added_in_parts(sizes: tuple[int, int], run: Run) -> None:
    op = OPS["rms_norm_weight_grad"]
    case = op.cases.make(*sizes)
    kernels = [d.kernel for d in make_plan(one_op_graph(op, case), Limits()).schedule.dispatches]
    assert kernels == ["inverse_rms", "rms_norm_weight_grad", "sum_parts"]
    check_case(op, case, run, assert_right)


@pytest.mark.parametrize("op", FAMILY, ids=lambda op: op.name)
def test_results_repeat_bit_for_bit(op: OpDef) -> None:
    case = op.cases.make(33, 6912)
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    (first,) = run_on_device(graph, values).values()
    (again,) = run_on_device(graph, values).values()
    assert_same_bits(first, again)
