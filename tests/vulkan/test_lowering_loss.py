"""The cross-entropy and its gradient on Vulkan against NumPy: planned, split, and on a device."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.draws import constant, operand
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue
from op_cases import assert_close, fixed_cases, one_op_graph
from vulkan_cases import RUNS, values_of

Run: TypeAlias = Callable[..., dict[str, HostValue]]

LOSS, GRAD = OPS["linear_cross_entropy"], OPS["linear_cross_entropy_grad"]
TOLERANCE = 2e-5
"""Beside the largest element: exponentials, and sums of thousands of terms in another order."""
FLOOR = 1e-3
"""Of what is compared with, as there may be no label at all."""
SPLIT = Limits(max_range=1 << 18, alignment=256, max_groups=20)
"""Limits that split the larger tables."""
LARGE = Limits(shared_memory=32768)


def case_of(
    op: OpDef, rows: int, width: int, vocabulary: int, dtype: str, labels: list[int]
) -> Case:
    """A case with given labels, repeated for all rows."""
    operands = (
        operand("f32", rows, width),
        operand(dtype, vocabulary, width),
        operand("i32", rows, draw=constant(lambda: np.resize(labels, rows))),
    )
    row = operand("f32", rows)
    return Case(operands if op is LOSS else (row, row, *operands, row))


def assert_right(op: OpDef, case: Case, run: Run, limits: Limits) -> None:
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    outputs = run(graph, values, limits)
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, TOLERANCE, FLOOR)


@pytest.mark.parametrize("limits", [SPLIT, LARGE], ids=["split", "large"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases((LOSS, GRAD)))
def test_fixed_cases(op: OpDef, case: Case, run: Run, limits: Limits) -> None:
    assert_right(op, case, run, limits)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", [LOSS, GRAD], ids=lambda op: op.name)
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
    assert_right(op, case_of(op, *sizes), run, LARGE)


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
