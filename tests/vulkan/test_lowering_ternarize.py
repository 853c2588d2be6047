"""Ternary weights made on the device: their codes, their scale, and the kernels that read them."""

from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue, Quantized, Ternary, pack_ternary
from bitgraph.graph.types import tensor
from op_cases import assert_close, assert_same_bits, fixed_cases, one_op_graph
from vulkan_cases import (
    FOLDED,
    RUNS,
    Run,
    check_case,
    check_random_cases,
    device_limits,
    run_on_device,
    run_shuffled,
    values_of,
)

TERNARIZE, DEQUANTIZE = OPS["ternarize"], OPS["dequantize"]
FloatArray: TypeAlias = npt.NDArray[np.float32]

SCALE = 1e-6
"""How far off a mean of thousands of magnitudes may be, beside itself."""
TIE = 2e-6
"""So near to one half, a product with the scale may round either way."""


def ternarized(w: FloatArray, run: Run, limits: Limits | None = None) -> Ternary:
    graph = one_op_graph(TERNARIZE, TERNARIZE.cases.make(*w.shape))
    (t,) = run(graph, {"x0": w}, limits).values()
    assert isinstance(t, Ternary)
    return t


def assert_ternary(w: FloatArray, t: Ternary) -> None:
    """Against the definition in double precision; only what is all but a tie may be otherwise."""
    exact = w.astype(np.float64)
    scale = max(np.abs(exact).mean(), 1e-5)
    assert t.shape == w.shape
    assert abs(t.scale - scale) <= SCALE * scale
    codes = t.codes()
    wrong = codes != np.clip(np.rint(exact / scale), -1, 1)
    assert np.all(np.abs(np.abs(exact[wrong]) / scale - 0.5) <= TIE)
    np.testing.assert_array_equal(t.packed, pack_ternary(codes))  # padded with zeros


def assert_right(graph: Graph, values: dict[str, HostValue], outputs: dict[str, HostValue]) -> None:
    (w,), (t,) = values.values(), outputs.values()
    assert isinstance(t, Ternary)
    assert_ternary(np.asarray(w, np.float32), t)


@pytest.mark.parametrize("limits", [Limits(), FOLDED], ids=["large", "folded"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases([TERNARIZE]))
def test_fixed_cases(op: OpDef, case: Case, run: Run, limits: Limits) -> None:
    check_case(op, case, run, assert_right, limits)


@pytest.mark.parametrize("run", RUNS)
def test_random_cases(run: Run) -> None:
    check_random_cases(TERNARIZE, run, assert_right, examples=8)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 43), (1, 127), (2, 64), (5, 26), (256, 1024), (640, 641)], ids=str
)
def test_shapes(shape: tuple[int, int], run: Run) -> None:
    """Groups that are not full, rows that are no whole words, sums in one part and in many."""
    w = np.random.default_rng(shape[1]).standard_normal(shape).astype(np.float32) * 0.02
    assert_ternary(w, ternarized(w, run))


@pytest.mark.parametrize("run", RUNS)
def test_ties_go_to_zero(run: Run) -> None:
    """With a mean magnitude of 1, halves are ties, and zero is the even one."""
    w = np.array([[0.5, -0.5, 1.5, -1.5, 1, 0.75, -0.25, 2]], np.float32)
    t = ternarized(w, run)
    assert t.scale == 1
    np.testing.assert_array_equal(t.codes(), [[0, 0, 1, -1, 1, 1, 0, 1]])


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("size", [0, 1e-30, 1e-7, 1e20])
def test_small_and_large_weights(size: float, run: Run) -> None:
    w = np.float32(size) * np.random.default_rng(1).standard_normal((7, 19)).astype(np.float32)
    assert_ternary(w, ternarized(w, run))


@pytest.mark.parametrize("run", RUNS)
def test_a_nan_is_known_by_the_scale(run: Run) -> None:
    w = np.ones((20, 300), np.float32)
    w[19, 299] = np.nan
    with np.errstate(invalid="ignore"):
        assert np.isnan(ternarized(w, run).scale)


def test_results_repeat_bit_for_bit() -> None:
    w = np.random.default_rng(0).standard_normal((300, 511)).astype(np.float32)
    assert_same_bits(ternarized(w, run_on_device), ternarized(w, run_on_device))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases([DEQUANTIZE]))
def test_dequantize(op: OpDef, case: Case, run: Run) -> None:
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    (want,), (got,) = evaluate(graph, values).values(), run(graph, values).values()
    assert_close(got, want, 3e-7)


PLAIN: frozenset[str] = frozenset()
DOT = frozenset({"integer_dot_product"})
UNITS = frozenset({"cooperative_matrix_s8", "cooperative_matrix_f16"})
KERNELS = [
    # rows, inner, columns, and what multiplies with the features of a device
    pytest.param((70, 100, 36), PLAIN, ("ternary_matmul", "ternary_matmul_t"), id="plain"),
    pytest.param((3, 256, 65), PLAIN, ("ternary_matvec", "ternary_matmul_t"), id="few rows"),
    pytest.param((70, 100, 36), DOT, ("ternary_matmul_dot", "ternary_matmul_t"), id="dot"),
    pytest.param((3, 256, 65), DOT, ("ternary_matvec+dot", "ternary_matmul_t"), id="few, dot"),
    pytest.param((40, 256, 96), UNITS, ("ternary_matmul_cm", "ternary_matmul_t_cm"), id="units"),
]


def products_graph(rows: int, inner: int, columns: int) -> Graph:
    """Products with a ternary matrix that is computed beside another, forwards and backwards."""
    b = GraphBuilder("products")
    x = b.add_input("x", tensor("q8", rows, inner), Role.INPUT)
    dy = b.add_input("dy", tensor("f32", rows, columns), Role.INPUT)
    weights = [
        b.op(
            "ternarize",
            b.add_input(name, tensor("f32", columns, inner), Role.PARAM),
            name=f"{name}.t",
        )
        for name in ("w", "v")
    ]
    forwards = [b.op("ternary_matmul", x, w) for w in weights]
    backwards = [b.op("ternary_matmul_t", dy, w) for w in weights]
    return b.finish((*forwards, *backwards))


@pytest.mark.parametrize(("sizes", "features", "kernels"), KERNELS)
@pytest.mark.parametrize(
    "run", [pytest.param(run_shuffled, id="runner"), pytest.param(run_on_device, id="device")]
)
def test_kernels_read_what_ternarize_writes(
    sizes: tuple[int, int, int], features: frozenset[str], kernels: tuple[str, str], run: Run
) -> None:
    limits = Limits(shared_memory=49152, features=features)
    if run is run_on_device:
        if not features <= device_limits().features:
            pytest.skip(f"needs a device with {', '.join(sorted(features))}")
        limits = replace(device_limits(), features=features)
    rows, inner, columns = sizes
    graph = products_graph(*sizes)
    rng = np.random.default_rng(0)
    x = Quantized(
        rng.integers(-127, 128, (rows, inner)).astype(np.int8), np.full((rows, 1), 9, np.float32)
    )
    values: dict[str, HostValue] = {
        "x": x,
        "dy": rng.standard_normal((rows, columns)).astype(np.float32),
    }
    # Weights far from the ties, so that the codes are the same for sure.
    for name in ("w", "v"):
        w = rng.choice(np.array([-1.5, -0.1, 0.1, 1.5]), (columns, inner))
        values[name] = (0.02 * w).astype(np.float32)
    used = {d.kernel for d in make_plan(graph, limits).schedule.dispatches}
    assert set(kernels) <= used
    outputs = run(graph, values, limits)
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, 1e-3 if "_cm" in kernels[1] else 1e-5)
