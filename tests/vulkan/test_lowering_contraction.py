"""Gradients of whole weights from int8 codes: in floats, and on matrix units."""

from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.lowering.contraction import MEANINGS
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.tensors import HostValue, Quantized
from bitgraph.graph.types import tensor
from bitgraph.passes.fuse.fuse import Fuse
from op_cases import assert_close
from vulkan_cases import RUNS, Run, assert_heads, device_limits, run_on_device

SUMMED = 1e-5
"""Beside the largest element: sums of thousands of products in another order."""
ROUNDED = 1e-3
"""Beside the largest element: one factor is rounded to half precision."""
UNITS = Limits(shared_memory=49152, features=frozenset({"cooperative_matrix_f16"}))
SIZES = [
    # rows of the batch, columns of the codes, columns of each cotangent
    (5, 7, (3,)),
    (40, 128, (64, 16)),
    (1000, 272, (144, 24, 72)),
    (8192, 256, (128,)),
    (3000, 256, (1024,)),
]


def gradients_graph(rows: int, columns: int, widths: tuple[int, ...]) -> Graph:
    """The gradients of several weights whose products read the same codes, fused."""
    b = GraphBuilder("gradients")
    codes = b.add_input("codes", tensor("q8", rows, columns), Role.INPUT)
    x = b.op("dequantize", codes)
    outputs = []
    for number, width in enumerate(widths):
        dy = b.add_input(f"dy{number}", tensor("f32", rows, width), Role.INPUT)
        outputs.append(b.op("contract_rows", dy, x, name=f"dw{number}"))
    graph = Fuse()(b.finish(tuple(outputs)))
    assert [node.attributes["pattern"] for node in graph.nodes] == ["code_gradients"]
    return graph


def gradients_values(graph: Graph) -> dict[str, HostValue]:
    """Rows of very different sizes, as cotangents and activations have."""
    rng = np.random.default_rng(0)
    values: dict[str, HostValue] = {}
    for item in graph.inputs:
        rows, columns = item.value.type.shape
        size = 10.0 ** rng.uniform(-6, 0, (rows, 1))
        if item.value.type.dtype == "q8":
            codes = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
            values[item.value.name] = Quantized(codes, (127 / size**0.3).astype(np.float32))
        else:
            drawn = rng.standard_normal((rows, columns)) * size
            values[item.value.name] = drawn.astype(np.float32)
    return values


def kernels_of(graph: Graph, limits: Limits) -> set[str]:
    return {dispatch.kernel for dispatch in make_plan(graph, limits).schedule.dispatches}


def assert_right(graph: Graph, run: Run, limits: Limits, tolerance: float) -> None:
    values = gradients_values(graph)
    outputs = run(graph, values, limits)
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, tolerance)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_in_floats(sizes: tuple[int, int, tuple[int, ...]], run: Run) -> None:
    graph = gradients_graph(*sizes)
    limits = replace(device_limits(), features=frozenset()) if run is run_on_device else Limits()
    assert {"dequantize", "contract_rows"} <= kernels_of(graph, limits)
    assert_right(graph, run, limits, SUMMED)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_on_matrix_units(sizes: tuple[int, int, tuple[int, ...]], run: Run) -> None:
    """Where widths are multiples of 16; the others stay in floats."""
    if run is run_on_device and not UNITS.features <= device_limits().features:
        pytest.skip("needs a device with matrix units for half precision")
    graph = gradients_graph(*sizes)
    limits = device_limits() if run is run_on_device else UNITS
    _, columns, widths = sizes
    fit = columns % 16 == 0 and widths[0] % 16 == 0
    assert ("contract_codes_cm" in kernels_of(graph, limits)) == fit
    assert_right(graph, run, limits, ROUNDED)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("size", [0, 1e-34, 1e30])
def test_halves_neither_overflow_nor_vanish(size: float, run: Run) -> None:
    """Results stay above the numbers that devices take for zero."""
    if run is run_on_device and not UNITS.features <= device_limits().features:
        pytest.skip("needs a device with matrix units for half precision")
    graph = gradients_graph(300, 64, (128,))
    values = gradients_values(graph)
    values["dy0"] = np.asarray(values["dy0"]) * np.float32(size)
    outputs = run(graph, values, UNITS if run is not run_on_device else None)
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, ROUNDED, floor=1e-36)


def test_powers_of_rows_are_computed_once() -> None:
    """Two products with one cotangent, forwards through the weight and into its gradient."""
    b = GraphBuilder("shared")
    codes = b.add_input("codes", tensor("q8", 64, 128), Role.INPUT)
    dy = b.add_input("dy", tensor("f32", 64, 32), Role.INPUT)
    w = b.add_input("w", tensor("t2", 32, 128), Role.WEIGHT)
    dx = b.op("ternary_matmul_t", dy, w)
    dw = b.op("contract_rows", dy, b.op("dequantize", codes))
    plan = make_plan(Fuse()(b.finish((dx, dw))), UNITS)
    kernels = [dispatch.kernel for dispatch in plan.schedule.dispatches]
    assert kernels.count("row_power") == 1
    assert {"ternary_matmul_t_cm", "contract_codes_cm"} <= set(kernels)


def test_kernels_are_what_their_heads_say() -> None:
    assert_heads(MEANINGS)
