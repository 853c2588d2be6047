"""Rotary positions on Vulkan against NumPy: planned and shuffled, and on a device."""

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue
from bitgraph.graph.types import tensor
from op_cases import assert_close, fixed_cases, one_op_graph
from vulkan_cases import FOLDED, RUNS, Run, check_case, check_random_cases, run_on_device

FAMILY = [OPS["rope"], OPS["rope_table"]]
TOLERANCE = 3e-7
"""Beside the largest element: two products and a sum; cosines are good to 1.5e-7."""


def assert_right(graph: Graph, values: dict[str, HostValue], outputs: dict[str, HostValue]) -> None:
    (want,), (got,) = evaluate(graph, values).values(), outputs.values()
    assert_close(got, want, TOLERANCE)


@pytest.mark.parametrize("limits", [Limits(), FOLDED], ids=["large", "folded"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases(FAMILY))
def test_fixed_cases(op: OpDef, case: Case, run: Run, limits: Limits) -> None:
    check_case(op, case, run, assert_right, limits)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", FAMILY, ids=lambda op: op.name)
def test_random_cases(op: OpDef, run: Run) -> None:
    check_random_cases(op, run, assert_right)


def test_angles_of_long_contexts() -> None:
    """The angle is rounded as NumPy rounds it; cosine and sine of it are good to 1.5e-7."""
    positions = np.arange(0, 65_536, 11, dtype=np.int32)
    frequencies = np.array([1, 0.8254, 0.1, 1e-3, 2e-6], np.float32)
    case = OPS["rope_table"].cases.make(positions.size, frequencies.size)
    graph = one_op_graph(OPS["rope_table"], case)
    (table,) = run_on_device(graph, {"x0": positions, "x1": frequencies}).values()
    assert isinstance(table, np.ndarray)
    angles = (positions.astype(np.float32)[:, None] * frequencies).astype(np.float64)
    want = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    assert np.max(np.abs(table - want)) < 1.5e-7


@pytest.mark.parametrize("half", [3, 32])
def test_the_inverse_turns_back(half: int) -> None:
    b = GraphBuilder("there_and_back")
    x = b.add_input("x", tensor("f32", 9, 2, 2 * half), Role.INPUT)
    positions = b.add_input("positions", tensor("i32", 9), Role.INPUT)
    frequencies = b.add_input("frequencies", tensor("f32", half), Role.WEIGHT)
    table = b.op("rope_table", positions, frequencies)
    there = b.op("rope", x, table, inverse=False)
    back = b.op("rope", there, table, inverse=True)
    graph = b.finish((there, back))
    rng = np.random.default_rng(0)
    values: dict[str, HostValue] = {
        "x": rng.standard_normal((9, 2, 2 * half)).astype(np.float32),
        "positions": np.arange(100, 109, dtype=np.int32),
        "frequencies": np.geomspace(1, 1e-4, half).astype(np.float32),
    }
    outputs = run_on_device(graph, values)
    assert_close(outputs[back.name], values["x"], 1e-6)
    assert not np.allclose(outputs[there.name], values["x"], atol=0.1)
