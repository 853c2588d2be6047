"""Matrix products on Vulkan against NumPy: planned and shuffled, and on a device."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import vulkan_cases
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.layout import to_bytes
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.lowering.linear import MEANINGS
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
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ir import Graph
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.draws import operand
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue, Quantized, Ternary
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import assert_close, fixed_cases, one_op_graph, random_cases
from vulkan_cases import (
    assert_heads,
    device_limits,
    kernel_device,
    run_on_device,
    simulate,
    values_of,
)

NAMES = ("ternary_matmul", "ternary_matmul_t", "matmul", "contract_rows")
FAMILY = [OPS[name] for name in NAMES]
EXACT = 3e-7
"""Beside the largest element: the sum is exact, the two roundings after it need not be."""
SUMMED = 1e-5
"""Beside the largest element: sums of thousands of products in another order."""
ROUNDED = 1e-3
"""Beside the largest element: one factor is rounded to half precision."""
PLAIN = Limits()
DOT = frozenset({"integer_dot_product"})
UNITS = Limits(
    shared_memory=49152,
    features=frozenset({"cooperative_matrix_s8", "cooperative_matrix_f16"}),
)
SPLIT = Limits(max_range=4096, alignment=64, max_groups=5)


def product_case(op: str, *sizes: int, dtypes: str = "f32 f32", transpose_b: bool = True) -> Case:
    """A product of [rows, inner] by [inner, columns], with factors of two types."""
    rows, inner, columns = sizes
    left, right = dtypes.split()
    shapes = {
        "ternary_matmul": ((rows, inner), (columns, inner)),
        "ternary_matmul_t": ((rows, inner), (inner, columns)),
        "contract_rows": ((inner, rows), (inner, columns)),
        "matmul": ((rows, inner), (columns, inner) if transpose_b else (inner, columns)),
    }
    a, b = shapes[op]
    attrs = {"transpose_b": transpose_b} if op == "matmul" else {}
    return Case((operand(left, *a), operand(right, *b)), attrs)


def param(op: str, *sizes: int, **options: object) -> object:
    named = "-".join([op, "x".join(map(str, sizes)), *map(str, options.values())])
    return pytest.param(OPS[op], product_case(op, *sizes, **options), id=named.replace(" ", "-"))


CODES, SMOOTH, HALF = "q8 t2", "f32 t2", "f32 f16"
MORE = [
    # Few rows and many: widths of whole groups, of whole words, and of neither.
    param("ternary_matmul", 1, 128, 1, dtypes=CODES),
    param("ternary_matmul", 3, 384, 70, dtypes=CODES),
    param("ternary_matmul", 8, 6912, 9, dtypes=CODES),
    param("ternary_matmul", 9, 128, 33, dtypes=CODES),
    param("ternary_matmul", 1, 132, 7, dtypes=CODES),
    param("ternary_matmul", 70, 100, 130, dtypes=CODES),
    param("ternary_matmul", 130, 1024, 20, dtypes=CODES),
    param("ternary_matmul", 20, 61, 200, dtypes=CODES),
    param("ternary_matmul", 257, 129, 66, dtypes=CODES),
    param("ternary_matmul", 1, 6912, 40, dtypes=SMOOTH),
    param("ternary_matmul", 5, 7, 3, dtypes=SMOOTH),
    param("ternary_matmul", 70, 516, 130, dtypes=SMOOTH),
    param("ternary_matmul_t", 1, 6912, 256, dtypes=SMOOTH),
    param("ternary_matmul_t", 70, 129, 130, dtypes=SMOOTH),
    param("ternary_matmul_t", 30, 640, 384, dtypes=SMOOTH),
    param("ternary_matmul_t", 20, 50, 77, dtypes=SMOOTH),
    # The products of an adapter and their gradients.
    param("matmul", 200, 1280, 16),
    param("matmul", 200, 16, 300),
    param("matmul", 1, 2560, 16),
    param("matmul", 4, 64, 130),
    param("matmul", 70, 1408, 33, transpose_b=False),
    param("matmul", 70, 8, 1408, transpose_b=False),
    param("contract_rows", 16, 700, 132),
    param("contract_rows", 133, 515, 24),
    # The gradients of whole weights: few tiles, many rows.
    param("contract_rows", 130, 1100, 200),
    param("contract_rows", 256, 4096, 128),
    # What the smooth graph has in the place of ternary weights.
    param("ternary_matmul", 70, 100, 130, dtypes="f32 f32"),
    param("ternary_matmul", 3, 130, 20, dtypes="f32 f32"),
    param("ternary_matmul", 20, 61, 70, dtypes="q8 f32"),
    param("ternary_matmul_t", 30, 640, 384, dtypes="f32 f32"),
    param("ternary_matmul_t", 5, 7, 3, dtypes="f32 f32"),
    # The head and the gradient of its input.
    param("matmul", 1, 256, 1000, dtypes=HALF),
    param("matmul", 3, 9, 50, dtypes=HALF),
    param("matmul", 40, 10, 500, dtypes=HALF),
    param("matmul", 11, 7, 5, dtypes=HALF),
    param("matmul", 2, 300, 64, dtypes=HALF, transpose_b=False),
    param("matmul", 12, 11, 5, dtypes=HALF, transpose_b=False),
]
ALL = [*fixed_cases(FAMILY), *MORE]
QUANTIZED = [p for p in ALL if [o.type.dtype for o in p.values[1].operands] == CODES.split()]
ON_UNITS = [
    param("ternary_matmul", 40, 512, 96, dtypes=CODES),
    param("ternary_matmul", 9, 128, 4, dtypes=CODES),
    param("ternary_matmul", 300, 384, 260, dtypes=CODES),
    param("ternary_matmul", 2048, 128, 1024, dtypes=CODES),
    param("ternary_matmul_t", 9, 32, 128, dtypes=SMOOTH),
    param("ternary_matmul_t", 300, 640, 384, dtypes=SMOOTH),
    param("ternary_matmul_t", 2048, 64, 1024, dtypes=SMOOTH),
]
TABLES = [
    param("matmul", 1, 256, 20, dtypes=HALF),
    param("matmul", 40, 64, 64, dtypes=HALF),
    param("matmul", 12, 27, 80, dtypes=HALF),
    param("matmul", 3, 66, 20),
    param("matmul", 30, 32, 64),
]


def assert_right(
    graph: Graph,
    given: dict[str, HostValue],
    values: dict[str, HostValue],
    halves: bool = False,
) -> None:
    quantized = [item.value.type.dtype for item in graph.inputs] == CODES.split()
    tolerance = EXACT if quantized else ROUNDED if halves else SUMMED
    for name, expected in evaluate(graph, values).items():
        assert_close(given[name], expected, tolerance)


def kernels_of(op: OpDef, case: Case, limits: Limits) -> list[str]:
    plan = make_plan(one_op_graph(op, case), limits)
    return [dispatch.kernel for dispatch in plan.schedule.dispatches]


@pytest.mark.parametrize(("op", "case"), ALL)
def test_planned(op, case):
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    for seed in range(2):
        assert_right(graph, simulate(graph, values, PLAIN, seed), values)


@pytest.mark.parametrize(("op", "case"), ALL)
def test_on_device(op, case):
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    limits = replace(device_limits(), features=frozenset())
    assert_right(graph, run_on_device(graph, values, limits), values)


@pytest.mark.parametrize(("op", "case"), QUANTIZED)
def test_packed_dot_products(op, case):
    limits = replace(device_limits(), features=DOT)
    assert all(name.endswith(("_dot", "+dot")) for name in kernels_of(op, case, limits))
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    assert_right(graph, simulate(graph, values, limits), values)
    if device_limits().features >= DOT:
        assert_right(graph, run_on_device(graph, values, limits), values)


@pytest.mark.parametrize(("op", "case"), ON_UNITS)
def test_matrix_units_planned(op, case):
    assert kernels_of(op, case, UNITS)[-1] == f"{op.name}_cm"
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    for seed in range(2):
        assert_right(graph, simulate(graph, values, UNITS, seed), values, halves=True)


@pytest.mark.parametrize(("op", "case"), ON_UNITS)
def test_matrix_units_on_device(op, case):
    if not device_limits().features >= UNITS.features:
        pytest.skip("needs a device with matrix units for int8 and for half precision")
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    assert_right(graph, run_on_device(graph, values), values, halves=True)


def test_matrix_units_are_left_alone_where_they_do_not_fit():
    codes = product_case("ternary_matmul", 40, 512, 96, dtypes=CODES)
    floats = product_case("ternary_matmul_t", 40, 512, 128, dtypes=SMOOTH)
    for limits in (replace(UNITS, shared_memory=8192), replace(UNITS, subgroup=64)):
        assert kernels_of(OPS["ternary_matmul"], codes, limits) == ["ternary_matmul"]
        assert "row_power" not in kernels_of(OPS["ternary_matmul_t"], floats, limits)


def test_halves_neither_overflow_nor_vanish():
    """Gradients of 1e-30 and of 1e30 side by side, and a row of zeros."""
    case = product_case("ternary_matmul_t", 40, 64, 128, dtypes=SMOOTH)
    graph = one_op_graph(OPS["ternary_matmul_t"], case)
    values = values_of(graph, case)
    magnitudes = np.geomspace(1e-30, 1e30, 40, dtype=np.float32)[:, None]
    magnitudes[7] = 0
    values["x0"] = values["x0"] * magnitudes
    (expected,) = evaluate(graph, values).values()
    results = [simulate(graph, values, UNITS)]
    if device_limits().features >= UNITS.features:
        results.append(run_on_device(graph, values))
    for result in results:
        (y,) = result.values()
        for row, right in zip(y, expected, strict=True):
            assert_close(row, right, ROUNDED)


@pytest.mark.parametrize("columns", [1, 7, 512, 1030])
def test_row_powers(columns):
    """The scales of rows in halves, on a device that may have no matrix units to use them."""
    rng = np.random.default_rng(columns)
    x = rng.standard_normal((5, columns)) * [[1e-45], [1e-20], [0], [1], [1e38]]
    x = x.astype(np.float32)
    x[4, -1] = -3.4e38
    constants = (("COLUMNS", columns), ("ROWS", 5))
    buffers = {"x": x, "y": np.full(5, np.nan, np.float32)}
    bindings = (
        Binding(Slice("x", 0, x.nbytes), Access.READ),
        Binding(Slice("y", 0, 20), Access.WRITE),
    )
    dispatch = Dispatch("row_power", constants, bindings, (5, 1, 1))
    memory = {name: np.array(to_bytes(value)) for name, value in buffers.items()}
    run_commands([dispatch], memory, rng)
    planned = memory["y"].view(np.float32)
    largest = np.abs(x).max(axis=1)
    tops = np.clip(largest, 2.0**-126, 2.0**126)
    assert np.all((planned <= tops) & (tops < 2 * planned))
    assert np.all(np.frexp(planned)[0] == 0.5)
    from bitgraph.backends.vulkan.transfer import Region

    device = kernel_device()
    opened = {name: device.buffer(name, array.nbytes) for name, array in buffers.items()}
    items = tuple(Buffer(name, array.nbytes, Kind.INPUT) for name, array in buffers.items())
    device.upload([(opened[name], array, 0) for name, array in buffers.items()])
    device.submit(device.record(Schedule("row_power", items, (dispatch,)), opened)).wait()
    (given,) = device.download([Region(opened["y"])])
    device.free(opened.values())
    np.testing.assert_array_equal(given.view(np.float32), planned)


@pytest.mark.parametrize(("op", "case"), TABLES)
def test_tables_larger_than_a_binding(op, case):
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    assert len(kernels_of(op, case, SPLIT)) > 1
    for seed in range(3):
        assert_right(graph, simulate(graph, values, SPLIT, seed), values)
    assert_right(graph, run_on_device(graph, values, SPLIT), values)


def test_a_row_wider_than_a_binding_is_refused():
    case = product_case("matmul", 2, 8, 1025)
    with pytest.raises(BitgraphError, match=r"f32\[2,1025\] cannot be split .* 4,096 bytes"):
        make_plan(one_op_graph(OPS["matmul"], case), SPLIT)


@pytest.mark.parametrize(("op", "case"), MORE[::3])
def test_workgroups_folded(op, case):
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    limits = replace(device_limits(), max_groups=17)
    assert_right(graph, run_on_device(graph, values, limits), values)


@settings(max_examples=40)
@given(st.data())
def test_random_sizes(data):
    op = data.draw(st.sampled_from(FAMILY))
    case = data.draw(random_cases(op))
    graph = one_op_graph(op, case)
    values = values_of(graph, case, seed=data.draw(st.integers(0, 99)))
    assert_right(graph, simulate(graph, values, PLAIN), values)


def test_extreme_codes_stay_exact():
    """-128 everywhere against weights of one sign: the largest sums there are."""
    case = product_case("ternary_matmul", 2, 6912, 4, dtypes=CODES)
    graph = one_op_graph(OPS["ternary_matmul"], case)
    codes = np.full((2, 6912), -128, np.int8)
    x = Quantized(codes, np.ones((2, 1), np.float32))
    w = Ternary.pack(np.repeat([[1], [-1], [0], [1]], 6912, axis=1), 1.0)
    expected = np.tile(np.array([-1, 1, 0, -1], np.float32) * 6912 * 128, (2, 1))
    for features in (frozenset(), DOT & device_limits().features):
        limits = replace(device_limits(), features=features)
        values = dict(zip(["x0", "x1"], [x, w], strict=True))
        (y,) = run_on_device(graph, values, limits).values()
        np.testing.assert_array_equal(y, expected)


def test_padding_of_codes_is_never_used(monkeypatch):
    """Rows of codes are padded to whole words, with bytes that may be anything."""

    def to_padded_bytes(value: HostValue) -> npt.NDArray[np.uint8]:
        data = to_bytes(value)
        if isinstance(value, Quantized):
            data[:24].reshape(3, 8)[:, 6:] = 77
        return data

    monkeypatch.setattr(vulkan_cases, "to_bytes", to_padded_bytes)
    case = product_case("ternary_matmul", 3, 6, 5, dtypes=CODES)
    graph = one_op_graph(OPS["ternary_matmul"], case)
    values = values_of(graph, case)
    assert_right(graph, run_on_device(graph, values), values)


@pytest.mark.parametrize("target", ["vulkan1.2", "vulkan1.3"])
def test_kernels_are_what_their_heads_say(target):
    """Those for matrix units too, which no CPU device runs."""
    assert_heads(MEANINGS, target)
