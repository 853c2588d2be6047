"""Attention and its gradient on Vulkan against NumPy: planned and shuffled, and on a device."""

from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.layout import to_bytes
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.backends.vulkan.runner import run_commands
from bitgraph.backends.vulkan.schedule import (
    Access,
    Binding,
    Buffer,
    Dispatch,
    Kind,
    Schedule,
    Slice,
)
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.draws import constant, operand
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import Array, HostValue
from bitgraph.graph.types import tensor
from bitgraph.passes.fuse.fuse import Fuse
from op_cases import assert_close, assert_same_bits, fixed_cases, one_op_graph
from vulkan_cases import (
    RUNS,
    Run,
    assert_heads,
    device_limits,
    kernel_device,
    run_on_device,
    values_of,
)

Sizes: TypeAlias = tuple[int, int, int, int, int, str]
Values: TypeAlias = dict[str, HostValue]

ATTENTION, GRAD = OPS["attention"], OPS["attention_grad"]
TOLERANCE = 2e-5
"""Beside the largest element: exponentials, and sums of hundreds of products in another order."""
SMALL, LARGE = Limits(shared_memory=16384), Limits(shared_memory=32768)
"""Tiles of 32 x 32 scores, and of 64 x 64."""
UNITS = Limits(shared_memory=49152, features=frozenset({"cooperative_matrix_f16"}))
ROUNDED = 1e-3
"""Beside the largest element, with probabilities and their changes in half precision."""


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


def assert_right(
    op: OpDef, case: Case, run: Run, limits: Limits, tolerance: float = TOLERANCE
) -> None:
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    outputs = run(graph, values, limits)
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, tolerance)


def units_for(run: Run) -> Limits:
    """Limits with matrix units: those of the device, if it has any, for a run on it."""
    if run is not run_on_device:
        return UNITS
    limits = device_limits()
    if not UNITS.features <= limits.features:
        pytest.skip("needs a device with matrix units for half precision")
    return limits


def kernels_of(graph: Graph, limits: Limits) -> set[str]:
    return {dispatch.kernel for dispatch in make_plan(graph, limits).schedule.dispatches}


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


def rotated_values(case: Case) -> Values:
    """Operands of `rotated`."""
    names = (f"x{k}" for k in range(8))
    values = dict(zip(names, case.draw(np.random.default_rng(0)), strict=True))
    rows, _, width = case.operands[0].type.shape
    angles = np.random.default_rng(1).uniform(0, 6, (rows, width // 2))
    values["table"] = np.concatenate([np.cos(angles), np.sin(angles)], axis=1, dtype=np.float32)
    return values


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
    values = rotated_values(case)
    fused = Fuse()(graph)
    assert [node.attributes["pattern"] for node in fused.nodes] == ["attention_grad_rope"]
    outputs = run(fused, values, limits)
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, TOLERANCE)
    kernels = kernels_of(fused, limits)
    assert ("rope" not in kernels) == (together or (width == 64 and limits is SMALL))


ON_UNITS = [
    (150, 150, 3, 1, 32, "packed"),
    (131, 131, 1, 2, 64, "sliding"),
    (65, 200, 2, 1, 128, "causal"),
    (77, 77, 4, 2, 96, "packed"),
    (300, 300, 4, 5, 128, "packed"),
    (9, 9, 1, 1, 128, "causal"),
    (70, 70, 1, 128, 32, "packed"),
]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", [ATTENTION, GRAD], ids=lambda op: op.name)
@pytest.mark.parametrize("sizes", ON_UNITS, ids=lambda sizes: "x".join(map(str, sizes)))
def test_on_matrix_units(op: OpDef, sizes: Sizes, run: Run) -> None:
    case, limits = case_of(op, *sizes), units_for(run)
    wanted = {"attention_cm"} if op is ATTENTION else {"attention_dq_cm", "attention_dkv_cm"}
    assert wanted <= kernels_of(one_op_graph(op, case), limits)
    assert_right(op, case, run, limits, ROUNDED)


def step_values(rows: int, heads: int, kv_heads: int, width: int, size: float) -> Values:
    """Operands of attention_grad as a step gives them, whose keys and values have much in common.

    The gradients of later rows are smaller, from `size` down to a billionth of it.
    """
    rng = np.random.default_rng(rows)
    first, last = (x.astype(np.int32) for x in last_keys(rows, rows, "packed"))
    q, dout = (rng.standard_normal((rows, heads, width)).astype(np.float32) for _ in range(2))
    k, v = (rng.standard_normal((rows, kv_heads, width)).astype(np.float32) for _ in range(2))
    k, v = k + rng.standard_normal(width).astype(np.float32), v + np.float32(3)
    dout *= size * np.geomspace(1, 1e-9, rows, dtype=np.float32)[:, None, None]
    out, lse = ATTENTION.eval(q, k, v, first, last)
    operands = (q, k, v, lse, (out * dout).sum(axis=2), dout, first, last)
    return {f"x{k}": x for k, x in enumerate(operands)}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("size", [0, 1e-25, 1, 1e25])
@pytest.mark.parametrize("sizes", [(150, 6, 2, 64), (70, 4, 4, 128)], ids=str)
def test_gradients_of_a_step(sizes: tuple[int, int, int, int], size: float, run: Run) -> None:
    """They neither overflow nor vanish as halves, and each row of dq is right by itself.

    Where a query sees one key, its dq is what rounding leaves of zero.
    """
    limits, values = units_for(run), step_values(*sizes, size)
    rows, heads, kv_heads, width = sizes
    case = case_of(GRAD, rows, rows, heads // kv_heads, kv_heads, width, "packed")
    graph = one_op_graph(GRAD, case)
    outputs = run(graph, values, limits)
    dq, dk, dv = evaluate(graph, values).items()
    for name, want in (dk, dv):
        assert_close(outputs[name], want, ROUNDED, floor=1e-36)
    floors = np.maximum(np.abs(values["x5"]).max(axis=(1, 2)), 1e-36)
    for given, want, floor in zip(outputs[dq[0]], dq[1], floors, strict=True):
        assert_close(given, want, ROUNDED, floor=floor)


@pytest.mark.parametrize("run", RUNS)
def test_scores_far_apart(run: Run) -> None:
    """A softmax whose largest score comes late, and is far above the others."""
    case, limits = case_of(ATTENTION, 100, 100, 2, 2, 64, "causal"), units_for(run)
    graph = one_op_graph(ATTENTION, case)
    values = values_of(graph, case)
    values["x1"] = values["x1"] * np.linspace(0.1, 30, 100, dtype=np.float32)[:, None, None]
    outputs = run(graph, values, limits)
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, ROUNDED)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("rows", "group", "kv_heads", "width"), [(37, 2, 2, 128), (70, 1, 3, 64), (40, 4, 1, 32)]
)
def test_gradients_turned_back_on_matrix_units(
    rows: int, group: int, kv_heads: int, width: int, run: Run
) -> None:
    case = case_of(GRAD, rows, rows, group, kv_heads, width, "examples")
    graph, values = rotated(case), rotated_values(case)
    fused, limits = Fuse()(graph), units_for(run)
    assert {"attention_dq_cm+rotated", "attention_dkv_cm+rotated"} <= kernels_of(fused, limits)
    outputs = run(fused, values, limits)
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, ROUNDED)


@pytest.mark.parametrize(
    "limits", [replace(UNITS, shared_memory=32768), replace(UNITS, subgroup=64)]
)
def test_matrix_units_are_left_alone_where_they_do_not_fit(limits: Limits) -> None:
    graph = one_op_graph(GRAD, case_of(GRAD, 40, 40, 2, 2, 128, "causal"))
    assert {"attention_dq", "attention_dkv"} <= kernels_of(graph, limits)
    graph = one_op_graph(ATTENTION, case_of(ATTENTION, 40, 40, 2, 2, 20, "causal"))
    assert kernels_of(graph, UNITS) == {"attention"}


@pytest.mark.parametrize(("rows", "parts"), [(64, 20), (2048, 20), (4096, 10), (8192, 5)])
def test_heads_are_cut_into_as_few_parts_as_keep_a_device_busy(rows: int, parts: int) -> None:
    graph = one_op_graph(GRAD, case_of(GRAD, rows, rows, 4, 5, 128, "causal"))
    dispatches = make_plan(graph, UNITS).schedule.dispatches
    (call,) = (d for d in dispatches if d.kernel == "attention_dkv_cm")
    assert dict(call.specialization)["PARTS"] == parts
    assert ("attention_share" in kernels_of(graph, UNITS)) == (parts > 5)


@pytest.mark.parametrize("width", [4, 96])
def test_powers_of_gradients(width: int) -> None:
    """The scales of rows in halves, on a device that may have no matrix units to use them."""
    rng = np.random.default_rng(width)
    sizes = np.array([0, 1e-45, 1e-20, 1, 1e38, 1e38], np.float32).reshape(3, 2)
    dout = rng.uniform(-1, 1, (3, 2, width)).astype(np.float32) * sizes[..., None]
    delta = np.array([0, 0, 3, 1e-9, 0, -3.4e38], np.float32).reshape(3, 2)
    largest = np.maximum(np.abs(dout).max(axis=2), np.abs(delta))
    arrays = {"dout": dout, "delta": delta, "power": np.full((3, 2), np.nan, np.float32)}
    access = {"dout": Access.READ, "delta": Access.READ, "power": Access.WRITE}
    bindings = tuple(Binding(Slice(n, 0, x.nbytes), access[n]) for n, x in arrays.items())
    constants = (("HEADS", 2), ("ROWS", 3), ("WIDTH", width))
    dispatch = Dispatch("attention_power", constants, bindings, (1, 1, 1))
    memory = {name: np.array(to_bytes(x)) for name, x in arrays.items()}
    run_commands([dispatch], memory, rng)
    planned = memory["power"].view(np.float32).reshape(3, 2)
    tops = np.clip(largest, 2.0**-126, 2.0**126)
    assert np.all((planned <= tops) & (tops < 2 * planned))
    assert np.all(np.frexp(planned)[0] == 0.5)
    assert_same_bits(on_device(dispatch, arrays, "power"), planned)


def on_device(dispatch: Dispatch, arrays: dict[str, Array], output: str) -> Array:
    """What a dispatch writes on the device under test."""
    from bitgraph.backends.vulkan.transfer import Region

    device = kernel_device()
    opened = {name: device.buffer(name, x.nbytes) for name, x in arrays.items()}
    items = tuple(Buffer(name, x.nbytes, Kind.INPUT) for name, x in arrays.items())
    device.upload([(opened[name], x, 0) for name, x in arrays.items()])
    device.submit(device.record(Schedule("one", items, (dispatch,)), opened)).wait()
    (given,) = device.download([Region(opened[output])])
    device.free(opened.values())
    assert device.messages == []
    wanted = arrays[output]
    return given.view(wanted.dtype).reshape(wanted.shape)


def test_kernels_are_what_their_heads_say() -> None:
    kernels = {"attention_cm", "attention_power", "attention_dq_cm", "attention_dkv_cm"}
    assert_heads({*kernels, "attention_dq_cm+rotated", "attention_dkv_cm+rotated"})
