"""The op quantize on Vulkan equals NumPy's bit for bit."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import Quantized
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import assert_same_bits, fixed_cases, one_op_graph, random_cases
from vulkan_cases import FOLDED, RUNS, Run, run_on_device, values_of

QUANTIZE = OPS["quantize"]
FloatArray: TypeAlias = npt.NDArray[np.float32]


def codes_of(x: FloatArray, run: Run) -> Quantized:
    graph = one_op_graph(QUANTIZE, QUANTIZE.cases.make(*x.shape))
    (q,) = run(graph, {"x0": x}).values()
    assert isinstance(q, Quantized)
    return q


def assert_exact(x: FloatArray, run: Run) -> None:
    graph = one_op_graph(QUANTIZE, QUANTIZE.cases.make(*x.shape))
    (want,) = evaluate(graph, {"x0": x}).values()
    assert_same_bits(codes_of(x, run), want)


@pytest.mark.parametrize("limits", [Limits(), FOLDED], ids=["large", "folded"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases([QUANTIZE]))
def test_fixed_cases(op: OpDef, case: Case, run: Run, limits: Limits) -> None:
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    (want,), (got,) = evaluate(graph, values).values(), run(graph, values, limits).values()
    assert_same_bits(got, want)


@pytest.mark.parametrize("run", RUNS)
@settings(max_examples=4, derandomize=True, deadline=None)
@given(random_cases(QUANTIZE), st.integers(0, 2**16))
def test_random_cases(run: Run, case: Case, seed: int) -> None:
    graph = one_op_graph(QUANTIZE, case)
    values = values_of(graph, case, seed)
    (want,), (got,) = evaluate(graph, values).values(), run(graph, values).values()
    assert_same_bits(got, want)


def test_scales_are_rounded_as_ieee_754_says() -> None:
    """Any significand and exponent: one ulp in the scale would change codes."""
    rng = np.random.default_rng(1)
    bits = rng.integers(0x3727C5AC, 0x7F800000, 5_000, dtype=np.uint32)
    edges = [0x3727C5AC, 0x3727C5AD, 0x7F7FFFFF, 0x42FE0000, 0x42FDFFFF, 0x42FE0001, 0x3F800000]
    bits[: len(edges)] = edges
    assert_exact(bits.view(np.float32)[:, None], run_on_device)


@pytest.mark.parametrize("run", RUNS)
def test_ties_go_to_the_even_code(run: Run) -> None:
    """With an absmax of 127 the scale is 1, so that halves are ties."""
    x = np.arange(-127, 127.5, 0.5, dtype=np.float32)[None]
    q = codes_of(x, run)
    np.testing.assert_array_equal(q.scale, [[1]])
    assert q.codes[0, 253] == 0
    assert q.codes[0, 255] == 0
    assert q.codes[0, 257] == 2
    assert_exact(x, run)


@pytest.mark.parametrize("run", RUNS)
def test_small_and_large_rows(run: Run) -> None:
    rows = np.array([0, 1e-30, 1e-6, 1e-5, 1.1e-5, 1, 1e10, 3.4e38], np.float32)
    x = rows[:, None] * np.array([1, -0.5, 0.3, 0, -1], np.float32)
    assert_exact(x, run)


def test_a_row_with_nan_is_known_by_its_scale() -> None:
    x = np.ones((3, 300), np.float32)
    x[1, 299] = np.nan
    q = codes_of(x, run_on_device)
    np.testing.assert_array_equal(np.isnan(q.scale[:, 0]), [False, True, False])
    np.testing.assert_array_equal(q.codes[[0, 2]], np.full((2, 300), 127))
