"""Attention and its gradient on Vulkan against NumPy: planned and shuffled, and on a device."""

from typing import TypeAlias

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.draws import constant, operand
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import Array
from bitgraph.graph.types import tensor
from bitgraph.passes.fuse.fuse import Fuse
from op_cases import assert_close, fixed_cases, one_op_graph
from vulkan_cases import RUNS, Run, values_of

Sizes: TypeAlias = tuple[int, int, int, int, int, str]

ATTENTION, GRAD = OPS["attention"], OPS["attention_grad"]
TOLERANCE = 2e-5
"""Beside the largest element: exponentials, and sums of hundreds of products in another order."""
SMALL, LARGE = Limits(shared_memory=16384), Limits(shared_memory=32768)
"""Tiles of 32 x 32 scores, and of 64 x 64."""


def last_keys(rows: int, keys: int, kind: str) -> tuple[Array, Array]:
    """The first and the last key that each query sees."""
    n = np.arange(rows)
    match kind:
        case "causal":
            return np.zeros(rows), keys - rows + n
        case "sliding":
            return np.maximum(0, n - 3), n
        case _:
            starts = np.array([0, 1, rows // 4, rows // 2 + 3])
            return starts[np.searchsorted(starts, n, side="right") - 1], n


def case_of(
    op: OpDef, rows: int, keys: int, group: int, kv_heads: int, width: int, kind: str
) -> Case:
    first, last = last_keys(rows, keys, kind)
    q, kv = operand("f32", rows, group * kv_heads, width), operand("f32", keys, kv_heads, width)
    stat = operand("f32", rows, group * kv_heads)
    seen = (
        operand("i32", rows, draw=constant(lambda: first)),
        operand("i32", rows, draw=constant(lambda: last)),
    )
    return Case((q, kv, kv, *seen) if op is ATTENTION else (q, kv, kv, stat, stat, q, *seen))


def assert_right(op: OpDef, case: Case, run: Run, limits: Limits) -> None:
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    outputs = run(graph, values, limits)
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, TOLERANCE)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases((ATTENTION, GRAD)))
def test_fixed_cases(op: OpDef, case: Case, run: Run) -> None:
    assert_right(op, case, run, LARGE)


@pytest.mark.parametrize("limits", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", [ATTENTION, GRAD], ids=lambda op: op.name)
@pytest.mark.parametrize(
    "sizes",
    [
        (150, 150, 3, 1, 20, "packed"),
        (131, 131, 1, 2, 64, "sliding"),
        (65, 200, 2, 1, 128, "causal"),
        (5, 5, 1, 1, 7, "causal"),
    ],
    ids=lambda sizes: "x".join(map(str, sizes)),
)
def test_what_queries_see(op: OpDef, sizes: Sizes, run: Run, limits: Limits) -> None:
    assert_right(op, case_of(op, *sizes), run, limits)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 700, 4, 5, 128, "causal"),
        (1, 256, 1, 3, 64, "causal"),
        (3, 257, 3, 1, 9, "causal"),
        (2, 300, 16, 1, 6, "causal"),
        (4, 600, 5, 2, 5, "sliding"),
    ],
    ids=lambda sizes: "x".join(map(str, sizes)),
)
def test_few_queries(sizes: Sizes, run: Run) -> None:
    assert_right(ATTENTION, case_of(ATTENTION, *sizes), run, LARGE)


@pytest.mark.parametrize("rows", [3, 90])
def test_keys_past_the_cursor_are_not_read(rows: int) -> None:
    """Slots of a cache that nobody has written yet may hold anything."""
    sizes = (rows, rows + 300, 2, 2, 8, "causal")
    case = case_of(ATTENTION, *sizes)
    graph = one_op_graph(ATTENTION, case)
    values = values_of(graph, case)
    values["x4"] = np.arange(rows, dtype=np.int32) + 7
    want = evaluate(graph, values)
    for name in ("x1", "x2"):
        values[name][rows + 7 :] = np.nan
    for run in RUNS:
        outputs = run.values[0](graph, values, LARGE)
        for name, expected in want.items():
            assert_close(outputs[name], expected, TOLERANCE)


def test_heads_too_wide_are_refused() -> None:
    graph = one_op_graph(ATTENTION, case_of(ATTENTION, 9, 9, 1, 1, 1024, "causal"))
    with pytest.raises(BitgraphError, match="heads of width 1024 are too wide"):
        make_plan(graph, LARGE)


def rotated(case: Case) -> Graph:
    """The gradient of attention to queries and keys that were rotated, turned back."""
    b = GraphBuilder("rotated")
    operands = [b.add_input(f"x{k}", x.type, Role.INPUT) for k, x in enumerate(case.operands)]
    rows, _, width = operands[0].type.shape
    table = b.add_input("table", tensor("f32", rows, width), Role.INPUT)
    dq, dk, dv = b.ops("attention_grad", *operands)
    dq, dk = (b.op("rope", x, table, inverse=True) for x in (dq, dk))
    return b.finish((dq, dk, dv))


@pytest.mark.parametrize("limits", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("rows", "group", "kv_heads", "width", "together"),
    [(37, 2, 2, 128, True), (70, 1, 3, 64, False), (5, 4, 1, 32, False)],
)
def test_gradients_turned_back(
    rows: int, group: int, kv_heads: int, width: int, together: bool, run: Run, limits: Limits
) -> None:
    case = case_of(GRAD, rows, rows, group, kv_heads, width, "examples")
    graph = rotated(case)
    values = dict(
        zip((f"x{k}" for k in range(8)), case.draw(np.random.default_rng(0)), strict=True)
    )
    angles = np.random.default_rng(1).uniform(0, 6, (rows, width // 2))
    values["table"] = np.concatenate([np.cos(angles), np.sin(angles)], axis=1, dtype=np.float32)
    fused = Fuse()(graph)
    assert [node.attributes["pattern"] for node in fused.nodes] == ["attention_grad_rope"]
    outputs = run(fused, values, limits)
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, TOLERANCE)
    kernels = {dispatch.kernel for dispatch in make_plan(fused, limits).schedule.dispatches}
    assert ("rope" not in kernels) == (together or (width == 64 and limits is SMALL))
