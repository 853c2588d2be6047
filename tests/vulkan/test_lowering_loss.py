"""The cross-entropy and its gradient on Vulkan against NumPy: planned, split, and on a device."""

import math
from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.lowering import lower_calls, meaning_of, training_loss
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.draws import constant, normal, operand
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue
from bitgraph.graph.types import tensor
from bitgraph.passes.fuse.fuse import Fuse
from op_cases import assert_close, fixed_cases, one_op_graph
from vulkan_cases import (
    RUNS,
    Run,
    assert_heads,
    assert_kernel,
    device_limits,
    run_on_device,
    values_of,
)

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


def step(rows: int, width: int, vocabulary: int, dtype: str, value: float = 1.0) -> Graph:
    """A loss as a sum over labelled rows, and its gradient, as the pass `grad` writes them."""
    b = GraphBuilder("step")
    h = b.add_input("h", tensor("f32", rows, width), Role.INPUT)
    table = b.add_input("table", tensor(dtype, vocabulary, width), Role.WEIGHT)
    labels = b.add_input("labels", tensor("i32", rows), Role.INPUT)
    weights = b.add_input("weights", tensor("f32", rows), Role.INPUT)
    nll, lse = b.ops(LOSS.name, h, table, labels, names=("nll", "lse"))
    loss = b.op("dot", nll, weights, name="loss")
    dnll = b.op("mul_scalar", weights, b.op("full_like", loss, value=value))
    dh = b.op(GRAD.name, dnll, dnll, h, table, labels, lse, name="dh")
    return b.finish((loss, nll, dh))


def step_values(graph: Graph, labels: list[int]) -> dict[str, HostValue]:
    rng = np.random.default_rng(3)
    values: dict[str, HostValue] = {
        item.value.name: normal(rng, item.value.type)
        for item in graph.inputs
        if item.value.name != "labels"
    }
    rows, width = graph.inputs[0].value.type.shape
    values["h"] = np.asarray(values["h"]) / np.float32(np.sqrt(width))
    values["labels"] = np.resize(np.array(labels, np.int32), rows)
    values["weights"] = np.asarray(values["weights"]) * np.geomspace(1e-9, 1e3, rows, dtype="f4")
    return values


def assert_step_right(
    graph: Graph, labels: list[int], run: Run, limits: Limits, tolerance: float
) -> None:
    fused, values = Fuse()(graph), step_values(graph, labels)
    assert [node.attributes["pattern"] for node in fused.nodes] == ["loss_and_gradient"]
    outputs = run(fused, values, limits)
    for name, want in evaluate(graph, values).items():
        got = np.asarray(outputs[name])
        if name == "dh":  # row by row, whose weights are far apart
            weights = np.asarray(values["weights"])[:, None]
            assert_close(got / weights, np.asarray(want) / weights, tolerance, FLOOR)
        else:
            assert_close(got, want, TOLERANCE, FLOOR)


STEPS = [
    ((130, 12, 1030, "f16"), [-1, 3, 1029, -1, -7, 128, 127]),
    ((300, 33, 700, "f32"), [5, -1, 699]),
    ((70, 7, 301, "f16"), [300, 0, 299]),
    ((4, 8, 9, "f32"), [-1]),
    ((300, 64, 3200, "f16"), [3199, 1]),
    ((600, 4, 200, "f16"), [-1] * 590 + [1] * 10),
]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("is_whole", [False, True], ids=["chunks", "whole"])
@pytest.mark.parametrize(("sizes", "labels"), STEPS, ids=["-".join(map(str, s)) for s, _ in STEPS])
def test_a_step_computes_its_logits_once(
    sizes: tuple[int, int, int, str],
    labels: list[int],
    is_whole: bool,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not is_whole:
        monkeypatch.setattr(training_loss, "_KEPT", 4 * 128 * sizes[2])
    graph = step(*sizes)
    kernels = [d.kernel for d in make_plan(Fuse()(graph), LARGE).schedule.dispatches]
    assert not any(name.startswith("logits_grad") for name in kernels)
    chunks = sum(name.startswith("cross_entropy_f") for name in kernels)
    assert chunks == (1 if is_whole else math.ceil(sizes[0] / 128))
    assert_step_right(graph, labels, run, LARGE, TOLERANCE)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("sizes", "labels"),
    [
        ((300, 64, 4096, "f16"), [-1, 5, 4095, 1024, -1, 1023]),
        ((3, 32, 96, "f16"), [95, -1, 0]),
        ((300, 160, 2080, "f16"), [2079, 1]),
        ((520, 256, 8192, "f16"), [8191]),
    ],
    ids=str,
)
def test_a_step_on_matrix_units(
    sizes: tuple[int, int, int, str],
    labels: list[int],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if run is run_on_device and not UNITS.features <= device_limits().features:
        pytest.skip("needs a device with cooperative matrices of f16")
    monkeypatch.setattr(training_loss, "_KEPT", 4 * 128 * sizes[2])
    graph = step(*sizes)
    kernels = [d.kernel for d in make_plan(Fuse()(graph), UNITS).schedule.dispatches]
    assert kernels.count("cross_entropy_cm+kept") == math.ceil(sizes[0] / 128)
    assert_step_right(graph, labels, run, UNITS, UNITS_TOLERANCE)


LARGE_MATRICES = UNITS.features | {"cooperative_matrix2_f16"}
LARGE_STEPS = [
    ((300, 256, 2048, "f16"), [3, 2047, 0], 128),
    ((300, 256, 2048, "f16"), [-1, 5, -1, -1, 1023], 128),
    ((300, 256, 2048, "f16"), [-1], 128),
    ((100, 768, 4096, "f16"), [4095, -1, 255, 256], 256),
    ((700, 1024, 2304, "f16"), [7, 2303, -1, 2048], 256),
]
"""Sizes, labels, and rows of a chunk. The last chunk is never full."""


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("sizes", "labels", "places"), LARGE_STEPS, ids=str)
def test_a_step_by_large_matrices(
    sizes: tuple[int, int, int, str],
    labels: list[int],
    places: int,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = replace(UNITS, features=LARGE_MATRICES)
    if run is run_on_device:
        if not device_limits().features >= LARGE_MATRICES:
            pytest.skip("needs a device with matrices as large as a workgroup (NV)")
        limits = device_limits()
    monkeypatch.setattr(training_loss, "_KEPT", 4 * places * sizes[2])
    graph = step(*sizes)
    kernels = [d.kernel for d in make_plan(Fuse()(graph), limits).schedule.dispatches]
    assert kernels.count("logits_nv") == math.ceil(sizes[0] / places)
    assert_step_right(graph, labels, run, limits, UNITS_TOLERANCE)


def test_large_matrices_have_to_win() -> None:
    """A step is planned as without them where they lost to what there was before."""
    limits = replace(UNITS, features=LARGE_MATRICES)
    graph = Fuse()(step(300, 256, 2048, "f16"))
    (choice,) = lower_calls(graph, limits).choices
    assert choice.sizes == (300, 256, 2048)
    for sizes in ((300, 256, 2080, "f16"), (300, 288, 2048, "f16")):
        assert not lower_calls(Fuse()(step(*sizes)), limits).choices
    lost = replace(limits, avoided=frozenset({choice.name("logits_nv")}))
    assert make_plan(graph, lost) == make_plan(graph, UNITS)


@pytest.mark.parametrize("count", [40, 200, 256])
@pytest.mark.parametrize("tiles", [3, 8])
def test_kernels_behind_large_matrices(count: int, tiles: int) -> None:
    """They need no matrix units, so every device runs them: the second of two chunks."""
    rng, rows, places, columns, pitch = np.random.default_rng(0), 260, 128, 9216, 320
    listed: dict[str, HostValue] = {
        "targets": np.resize(rng.integers(0, columns, pitch, dtype=np.int32), (1, pitch)),
        "rows": rng.permutation(rows).astype(np.uint32),
        "count": np.array([count, places], np.uint32),
        "power": np.exp2(rng.integers(-2, 2, rows)).astype(np.float32),
        "z": 5 * rng.standard_normal((places, columns), np.float32),
    }
    sizes = {"ROWS": rows, "PLACES": places, "COLUMNS": columns, "PITCH": pitch, "TILES": tiles}
    partial = np.zeros((tiles, 3, places), np.float32)
    operands = {**listed, "partial": partial}
    assert_kernel("logits_partial", sizes, operands, places * tiles, TOLERANCE)

    meaning_of("logits_partial")(sizes, operands)
    operands |= {name: rng.standard_normal(rows, np.float32) for name in ("spread", "peak")}
    operands |= {"nll": np.zeros(rows, np.float32), "dz": np.zeros((places, columns), np.float16)}
    constants = {**sizes, "SLICES": 4, "TOGETHER": 8, "HIGH": places}
    groups = places // 8 * 4
    assert_kernel("softmax_grad+halves+power", constants, operands, groups, 1e-3)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("why", ["another cotangent", "a table that cannot be bound"])
def test_a_step_whose_logits_are_computed_twice(why: str, run: Run) -> None:
    is_cut = why.startswith("a table")
    graph = step(40, 64, 2048, "f16", value=1.0 if is_cut else 0.5)
    limits = replace(LARGE, max_range=1 << 17) if is_cut else LARGE
    kernels = [d.kernel for d in make_plan(Fuse()(graph), limits).schedule.dispatches]
    assert any(name.startswith("logits_grad") for name in kernels)
    assert_step_right(graph, [-1, 5, 2047], run, limits, TOLERANCE)


@pytest.mark.parametrize("target", ["vulkan1.2", "vulkan1.3"])
def test_kernels_are_what_their_heads_say(target: str) -> None:
    """Those for matrix units too, which no CPU device runs."""
    kinds = ("f16", "f32", "cm")
    names = [
        f"{name}_{kind}" for name in ("cross_entropy", "logits_grad", "rows_grad") for kind in kinds
    ]
    options = [f"cross_entropy_{kind}+kept" for kind in kinds]
    options += [f"rows_grad_{kind}+parted" for kind in kinds]
    others = ["softmax_grad", "softmax_grad+halves", "listed_sums", "listed_sums+scaled"]
    others += ["softmax_grad+halves+power", "logits_nv", "logits_partial"]
    others += ["listed_halves", "listed_halves+lines"]
    assert_heads([*names, *options, *others, "labelled_rows", "labelled_rows+chunked"], target)
