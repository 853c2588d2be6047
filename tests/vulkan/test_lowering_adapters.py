"""Adapted projections in one node each, on Vulkan against the nodes apart in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.lowering import adapters
from bitgraph.backends.vulkan.lowering.adapters import MEANINGS
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role, Value
from bitgraph.graph.ops.draws import normal
from bitgraph.graph.tensors import HostValue, Quantized
from bitgraph.graph.types import tensor
from bitgraph.passes.fuse.fuse import Fuse
from op_cases import assert_close
from vulkan_cases import RUNS, Run, assert_heads, device_limits, run_on_device, simulate

SUMMED = 1e-5
"""Beside the largest element: sums in another order."""
ROUNDED = 1e-3
"""Beside the largest element: one factor is rounded to half precision."""
FACTOR = 1.5
PLAIN = Limits()
DOT = frozenset({"integer_dot_product"})
UNITS = Limits(
    shared_memory=49152,
    bindings=64,
    invocations=1024,
    features=frozenset({"cooperative_matrix_s8", "cooperative_matrix_f16", "subgroup_shuffle"}),
)
FEW = Limits(bindings=7, max_groups=29, shared_memory=32768)
"""Members in several dispatches, workgroups in y."""


class Projections:
    """Builds a graph of a few projections of one x, forwards or backwards."""

    def __init__(self, rows: int) -> None:
        self.b = GraphBuilder("adapted")
        self.rows = rows

    def input(self, name: str, dtype: str, *shape: int) -> Value:
        role = Role.WEIGHT if dtype == "t2" else Role.INPUT
        return self.b.add_input(name, tensor(dtype, *shape), role)

    def low(self, x: Value, weight: Value, transpose_b: bool) -> Value:
        low = self.b.op("matmul", x, weight, transpose_b=transpose_b)
        return self.b.op("scale", low, factor=FACTOR)


def forward(
    rows: int,
    inner: int,
    outs: tuple[int, ...],
    rank: int,
    dtype: str = "q8",
    residual: bool = False,
    head: int = 0,
) -> Graph:
    """y = w x + B (s A x) for some projections of the same x, plus a residual or rotated."""
    p = Projections(rows)
    x = p.input("x", "f32", rows, inner)
    codes = x if dtype == "f32" else p.input("codes", "q8", rows, inner)
    results: list[Value] = []
    for k, out in enumerate(outs):
        y = p.b.op("ternary_matmul", codes, p.input(f"w{k}", "t2", out, inner))
        if rank:
            low = p.low(x, p.input(f"a{k}", "f32", rank, inner), True)
            up = p.b.op("matmul", low, p.input(f"b{k}", "f32", out, rank), transpose_b=True)
            y = p.b.op("add", y, up)
            results.append(low)
        if residual:
            y = p.b.op("add", p.input(f"r{k}", "f32", rows, out), y)
        if head:
            y = p.b.op("reshape", y, row=(out // head, head))
            y = p.b.op("rope", y, p.input(f"t{k}", "f32", rows, head), inverse=False)
        results.append(y)
    return p.b.finish(tuple(results))


def attention_input(rows: int, inner: int, heads: tuple[int, ...], rank: int) -> Graph:
    """Queries and keys, rotated by the same angles, and values, which are not; heads of 128."""
    p = Projections(rows)
    codes, table = p.input("codes", "q8", rows, inner), p.input("t", "f32", rows, 128)
    x = p.input("x", "f32", rows, inner)
    results: list[Value] = []
    for k, count in enumerate(heads):
        y = p.b.op("ternary_matmul", codes, p.input(f"w{k}", "t2", 128 * count, inner))
        low = p.low(x, p.input(f"a{k}", "f32", rank, inner), True)
        b = p.input(f"b{k}", "f32", 128 * count, rank)
        y = p.b.op("add", y, p.b.op("matmul", low, b, transpose_b=True))
        if k < 2:
            y = p.b.op("reshape", y, row=(count, 128))
            y = p.b.op("rope", y, table, inverse=False)
        results.append(y)
    return p.b.finish(tuple(results))


def backward(rows: int, inner: int, outs: tuple[int, ...], rank: int, added: bool = False) -> Graph:
    """The cotangent of x, and the gradients of all A and B; without A and B for rank 0."""
    p = Projections(rows)
    x = p.input("x", "f32", rows, inner)
    total = p.input("other", "f32", rows, inner) if added else None
    gradients: list[Value] = []
    for k, out in enumerate(outs):
        dy = p.input(f"dy{k}", "f32", rows, out)
        parts = [p.b.op("ternary_matmul_t", dy, p.input(f"w{k}", "t2", out, inner))]
        if rank:
            low = p.low(x, p.input(f"a{k}", "f32", rank, inner), True)
            dlow = p.low(dy, p.input(f"b{k}", "f32", out, rank), False)
            parts.append(p.b.op("matmul", dlow, p.b.inputs[-2].value, transpose_b=False))
            gradients += [p.b.op("contract_rows", dy, low), p.b.op("contract_rows", dlow, x)]
        for part in parts:
            total = part if total is None else p.b.op("add", total, part)
    assert total is not None
    return p.b.finish((total, *gradients))


def drawn(graph: Graph, seed: int = 0) -> dict[str, HostValue]:
    rng = np.random.default_rng(seed)
    return {item.value.name: normal(rng, item.value.type) for item in graph.inputs}


def assert_right(graph: Graph, given: dict[str, HostValue], values: dict[str, HostValue]) -> None:
    rough = any(node.op == "ternary_matmul_t" for node in graph.nodes)
    for name, expected in evaluate(graph, values).items():
        assert_close(given[name], expected, ROUNDED if rough else SUMMED)


def kernels_of(graph: Graph, limits: Limits) -> list[str]:
    return [dispatch.kernel for dispatch in make_plan(graph, limits).schedule.dispatches]


FORWARD = [
    # Few rows, tiles, plain activations; ranks below, at and above a quad and a tile.
    forward(1, 128, (70,), 16),
    forward(5, 256, (33, 128), 3),
    forward(8, 128, (9,), 1, residual=True),
    forward(33, 100, (40, 20, 20), 8, residual=True),
    forward(130, 61, (77,), 64),
    forward(20, 384, (130, 30), 33, residual=True),
    forward(40, 64, (64,), 0, residual=True),
    forward(1, 256, (30,), 0, residual=True),
    forward(70, 516, (130,), 5, dtype="f32", residual=True),
    forward(3, 1000, (12, 9), 16, dtype="f32"),
    forward(1, 128, (64,), 4, head=16),
    forward(5, 256, (12, 60), 3, head=6),
    forward(2, 1280, (128,), 0, head=128),
    forward(37, 256, (96, 24), 16, head=12),
]
BACKWARD = [
    backward(1, 128, (16,), 16),
    backward(5, 50, (33, 9, 9), 3),
    backward(33, 132, (70, 20, 20), 8, added=True),
    backward(130, 384, (64,), 1),
    backward(20, 640, (129, 30), 64),
    backward(40, 77, (31, 50), 17, added=True),
    backward(9, 64, (128, 32), 0),
]


def identity(graph: Graph) -> str:
    rows, inner = graph.inputs[0].value.type.shape
    names = "-".join(i.value.name for i in graph.inputs if i.value.type.dtype == "f32")
    return f"{rows}x{inner}-{names}"


ALL = [pytest.param(graph, id=identity(graph)) for graph in (*FORWARD, *BACKWARD)]


def is_fused(graph: Graph) -> bool:
    """Whether nothing is left but fused nodes."""
    return {node.op for node in graph.nodes} == {"fused"}


@pytest.mark.parametrize("graph", ALL)
def test_the_meaning_is_that_of_the_nodes(graph: Graph) -> None:
    fused = Fuse()(graph)
    assert is_fused(fused)
    values = drawn(graph)
    results = evaluate(fused, values)
    for name, expected in evaluate(graph, values).items():
        np.testing.assert_array_equal(results[name], expected)


@pytest.mark.parametrize("limits", [PLAIN, FEW], ids=["plain", "few"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("graph", ALL)
def test_fused(graph: Graph, run: Run, limits: Limits) -> None:
    values = drawn(graph)
    assert_right(graph, run(Fuse()(graph), values, limits), values)


@pytest.mark.parametrize("graph", ALL[: len(FORWARD)])
def test_packed_dot_products(graph: Graph) -> None:
    limits = replace(PLAIN, features=DOT)
    fused, values = Fuse()(graph), drawn(graph)
    assert_right(graph, simulate(fused, values, limits), values)
    if device_limits().features >= DOT:
        assert_right(graph, run_on_device(fused, values, limits), values)


ON_UNITS = [
    pytest.param(graph, id=identity(graph))
    for graph in (
        forward(40, 512, (96, 132), 16),
        forward(9, 128, (4,), 3, residual=True),
        forward(300, 384, (260,), 40, residual=True),
        forward(2048, 128, (1024, 256), 16),
        forward(130, 256, (128,), 0, residual=True),
        forward(300, 256, (384, 128), 16, head=128),
        forward(2048, 128, (1024,), 3, head=128),
        forward(33, 128, (128,), 0, head=128),
        forward(70, 128, (128,), 8, head=64),
        forward(140, 256, (256, 128, 128), 16),
        forward(40, 128, (128, 256), 0),
        attention_input(300, 256, (2, 1, 1), 16),
        attention_input(20, 128, (1, 2, 1), 3),
        backward(9, 128, (32,), 1),
        backward(300, 384, (640, 128, 128), 16, added=True),
        backward(2048, 1024, (64, 96), 8),
        backward(33, 256, (64,), 33),
        backward(40, 128, (64, 32), 0),
    )
]


@pytest.mark.parametrize("graph", ON_UNITS)
def test_matrix_units_planned(graph: Graph) -> None:
    fused, values = Fuse()(graph), drawn(graph)
    assert is_fused(fused)
    names = kernels_of(fused, UNITS)
    assert any(name.startswith(("ternary_matmul_cm", "ternary_matmul_t_cm")) for name in names)
    assert not {"add", "scale", "sum_parts"} & set(names)
    heads = [n.inputs[0].type.shape[2] for n in graph.nodes if n.op == "rope"]
    assert names.count("rope") == sum(head != 128 for head in heads)
    for seed in range(2):
        assert_right(graph, simulate(fused, values, UNITS, seed), values)


@pytest.mark.parametrize("graph", ON_UNITS)
def test_matrix_units_on_device(graph: Graph) -> None:
    if not device_limits().features >= UNITS.features:
        pytest.skip("needs a device with matrix units for int8 and for half precision")
    values = drawn(graph)
    assert_right(graph, run_on_device(Fuse()(graph), values), values)


@pytest.mark.parametrize("rank", [3, 16])
def test_an_adapters_part_on_matrix_units_is_nearly_f32(rank: int) -> None:
    """Beside the magnitudes that are added up, of rows and columns from 1e-15 to 1e15."""
    b = GraphBuilder("part")
    codes = b.add_input("codes", tensor("q8", 200, 128), Role.INPUT)
    low, up = (b.add_input(n, tensor("f32", 200, rank), Role.INPUT) for n in ("low", "b"))
    y = b.op("ternary_matmul", codes, b.add_input("w", tensor("t2", 200, 128), Role.WEIGHT))
    graph = b.finish((b.op("add", y, b.op("matmul", low, up, transpose_b=True)),))
    values = drawn(graph)
    values["codes"] = Quantized(np.zeros((200, 128), np.int8), np.ones((200, 1), np.float32))
    magnitudes = np.geomspace(1e-15, 1e15, 200, dtype=np.float32)[:, None]
    values |= {"low": values["low"] * magnitudes, "b": values["b"] * magnitudes[::-1]}
    values["low"][7] = values["b"][9] = 0
    factors = [np.float64(values[name]) for name in ("low", "b")]
    magnitude = np.max(np.abs(factors[0]), axis=1)[:, None] * np.max(np.abs(factors[1]), axis=1)
    results = [simulate(Fuse()(graph), values, UNITS)]
    if device_limits().features >= UNITS.features:
        results.append(run_on_device(Fuse()(graph), values))
    for (result,) in (result.values() for result in results):
        assert np.all(np.abs(result - factors[0] @ factors[1].T) <= 2e-6 * magnitude)


def test_adapters_of_high_rank_are_added_in_f32() -> None:
    """And all adapters without matrix units for f16, or without shared memory to spare."""
    (name, *_) = kernels_of(Fuse()(forward(300, 128, (128,), 17)), UNITS)[::-1]
    assert name == "ternary_matmul_cm+low"
    without = replace(UNITS, features=UNITS.features - {"cooperative_matrix_f16"})
    for limits in (without, replace(UNITS, shared_memory=20480)):
        (name, *_) = kernels_of(Fuse()(forward(300, 128, (128,), 16)), limits)[::-1]
        assert name == "ternary_matmul_cm+low"


SHARED = [
    pytest.param(graph, id=graph.name)
    for graph in (
        forward(300, 2048, (260,), 16, residual=True),
        forward(300, 2048, (384, 128), 16, head=128),
        forward(70, 4096, (128,), 0, residual=True),
        forward(300, 2048, (128, 256), 16),
        attention_input(140, 2048, (1, 2, 2), 16),
        backward(300, 384, (640, 1024, 128), 16, added=True),
        backward(600, 256, (1024,), 0),
    )
]
FEW_CORES = replace(UNITS, cores=2)


@pytest.mark.parametrize("graph", SHARED)
def test_shared_tiles_planned(graph: Graph) -> None:
    fused, values = Fuse()(graph), drawn(graph)
    names = kernels_of(fused, FEW_CORES)
    halves = [name for name in names if "+shared" in name or "+rest" in name]
    assert len(halves) in (2, 4)
    for seed in range(2):
        assert_right(graph, simulate(fused, values, FEW_CORES, seed), values)


@pytest.mark.parametrize("graph", SHARED)
def test_shared_tiles_on_device(graph: Graph) -> None:
    if not device_limits().features >= UNITS.features:
        pytest.skip("needs a device with matrix units for int8 and for half precision")
    limits = replace(device_limits(), cores=2)
    assert_right(graph, run_on_device(Fuse()(graph), drawn(graph), limits), drawn(graph))


LARGE = [
    pytest.param(graph, id=graph.name)
    for graph in (
        backward(300, 512, (640, 1024, 128), 16, added=True),
        backward(9, 4096, (2048,), 0),
        backward(70, 1024, (1024, 96), 7),
        backward(1100, 768, (128, 2048), 0, added=True),
    )
]
LARGE_MATRICES = UNITS.features | {"cooperative_matrix2_f16"}


@pytest.mark.parametrize("cores", [0, 4])
@pytest.mark.parametrize("graph", LARGE)
def test_large_matrices_planned(graph: Graph, cores: int) -> None:
    limits = replace(UNITS, features=LARGE_MATRICES, cores=cores)
    fused, values = Fuse()(graph), drawn(graph)
    assert "halves_product_nv" in kernels_of(fused, limits)
    for seed in range(2):
        assert_right(graph, simulate(fused, values, limits, seed), values)


@pytest.mark.parametrize("cores", [0, 4])
@pytest.mark.parametrize("graph", LARGE)
def test_large_matrices_on_device(graph: Graph, cores: int) -> None:
    if not device_limits().features >= LARGE_MATRICES:
        pytest.skip("needs a device with matrices as large as a workgroup (NV)")
    limits = replace(device_limits(), cores=cores)
    assert_right(graph, run_on_device(Fuse()(graph), drawn(graph), limits), drawn(graph))


def test_one_dispatch_serves_all_adapters_of_an_x() -> None:
    names = kernels_of(Fuse()(forward(40, 256, (128, 64, 64), 16)), UNITS)
    products = ["ternary_matmul_cm+low+halves"] * 3
    assert sorted(names) == ["code_panels", *products, *["ternary_panels"] * 3, "thin_matmul+3"]
    names = kernels_of(Fuse()(forward(40, 256, (128, 256, 128), 16)), UNITS)
    together = ["code_panels", "ternary_matmul_cm+low+halves+3", "ternary_panels+3"]
    assert sorted(names) == [*together, "thin_matmul+3"]
    names = kernels_of(Fuse()(attention_input(40, 256, (2, 1, 1), 16)), UNITS)
    together[1] = "ternary_matmul_cm+low+rotated+halves+3"
    assert sorted(names) == [*together, "thin_matmul+3"]
    names = kernels_of(Fuse()(backward(40, 256, (128, 64, 64), 16)), UNITS)
    assert sorted(names) == sorted(
        [
            "thin_matmul+3",
            "thin_matmul+across+3",
            "row_halves+panels+joined+3",
            "ternary_panels_t+3",
            "ternary_matmul_t_cm+low+joined+3",
            "thin_contract+6",
        ]
    )


def test_products_that_are_not_alike_have_dispatches_of_their_own() -> None:
    """Other ranks, other angles, a tile that would belong to two, too few bindings."""
    names = kernels_of(Fuse()(forward(40, 256, (128, 128), 16, head=128)), UNITS)
    assert names.count("ternary_matmul_cm+low+rotated+halves") == 2
    names = kernels_of(Fuse()(forward(40, 256, (128, 192), 0)), UNITS)
    assert names.count("ternary_matmul_cm") == 2
    few = replace(UNITS, bindings=13)
    names = kernels_of(Fuse()(forward(40, 256, (128, 128, 128), 0)), few)
    assert names == ["code_panels", "ternary_panels+3", "ternary_matmul_cm+3"]
    names = kernels_of(Fuse()(forward(40, 256, (128, 128, 128), 4)), few)
    assert {"ternary_matmul_cm+low+halves+2", "ternary_matmul_cm+low+halves"} < set(names)


def test_a_product_that_another_adds_is_there_before() -> None:
    """Both read the same codes, and would be one dispatch if nothing were added."""
    b = GraphBuilder("chained")
    codes = b.add_input("codes", tensor("q8", 40, 256), Role.INPUT)
    weights = [b.add_input(f"w{k}", tensor("t2", 128, 256), Role.WEIGHT) for k in range(3)]
    first, second, third = (b.op("ternary_matmul", codes, w) for w in weights)
    graph = b.finish((b.op("add", second, first), first, third))
    fused, values = Fuse()(graph), drawn(graph)
    products = [name for name in kernels_of(fused, UNITS) if "panels" not in name]
    assert products == ["ternary_matmul_cm+2", "ternary_matmul_cm+added"]
    for seed in range(2):
        assert_right(graph, simulate(fused, values, UNITS, seed), values)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("shape", adapters._MATMUL_SHAPES)
def test_tiles_of_every_height(
    shape: tuple[int, int, int], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "_MATMUL_SHAPES", (shape,))
    limits = Limits(shared_memory=32768, invocations=1024)
    for graph in (forward(37, 1030, (24, 9), 18, dtype="f32"), backward(37, 64, (1030, 9), 18)):
        fused = Fuse()(graph)
        assert any(name.startswith("thin_matmul") for name in kernels_of(fused, limits))
        values = drawn(graph)
        assert_right(graph, run(fused, values, limits), values)


@pytest.mark.parametrize("run", RUNS)
def test_a_long_inner_axis_is_split(run: Run) -> None:
    graph = backward(1000, 130, (33, 9), 5)
    fused, values = Fuse()(graph), drawn(graph)
    assert kernels_of(fused, PLAIN).count("thin_sum+4") == 1
    assert_right(graph, run(fused, values, PLAIN), values)


def test_magnitudes_far_apart() -> None:
    """Cotangents of 1e-30 and of 1e30 side by side, and a row of zeros."""
    graph = backward(40, 128, (64, 32), 4)
    values = drawn(graph)
    magnitudes = np.geomspace(1e-30, 1e30, 40, dtype=np.float32)[:, None]
    magnitudes[7] = 0
    for name in ("dy0", "dy1"):
        values[name] = values[name] * magnitudes
    name = graph.outputs[0].name
    expected = evaluate(graph, values)[name]
    results = [simulate(Fuse()(graph), values, limits) for limits in (PLAIN, UNITS)]
    results.append(run_on_device(Fuse()(graph), values))
    for result in results:
        for row, right in zip(result[name], expected, strict=True):
            assert_close(row, right, ROUNDED)


VARIANTS = [
    *(
        f"{name}{options}"
        for name in (
            "ternary_matmul",
            "ternary_matmul_dot",
            "ternary_matmul_cm",
            "ternary_matmul_f32",
            "ternary_matvec",
            "ternary_matvec+dot",
            "ternary_matmul_t",
            "ternary_matmul_t_cm",
            "ternary_matmul_t_cm+3",
        )
        for options in ("", "+low", "+added", "+low+added")
    ),
    *(
        f"{name}{half}"
        for name in (
            "ternary_matmul_cm+low+added",
            "ternary_matmul_cm+low+rotated",
            "ternary_matmul_t_cm",
            "ternary_matmul_t_cm+low+added",
        )
        for half in ("+shared", "+rest")
    ),
    *(f"ternary_matmul_cm{low}{half}+3" for low in ("", "+low") for half in ("", "+shared")),
    *(f"ternary_matmul_cm+low+rotated{half}+3" for half in ("", "+shared", "+rest")),
    *(
        f"ternary_matmul_cm+low{option}+halves{half}{members}"
        for option, members in (("", ""), ("", "+3"), ("+rotated", "+3"), ("+added", ""))
        for half in ("", "+shared")
    ),
    "ternary_matmul_t_cm+low+shared+3",
    "ternary_matmul_t_cm+low+rest+3",
    *(f"{name}{members}" for name in MEANINGS for members in ("", "+3")),
    *(f"ternary_matvec{dot}{low}+rotated" for dot in ("", "+dot") for low in ("", "+low")),
    "ternary_matmul_cm+rotated",
    "ternary_matmul_cm+low+rotated",
    "row_halves",
    "row_halves+3",
    "row_halves+panels",
    "row_halves+panels+3",
    "row_halves+panels+joined",
    "row_halves+panels+joined+3",
    "ternary_matmul_t_cm+low+joined",
    "ternary_matmul_t_cm+low+added+joined+shared+3",
    "code_panels",
    "ternary_panels",
    "ternary_panels+3",
    "ternary_panels_t",
    "ternary_panels_t+3",
    "ternary_halves",
    "ternary_halves+3",
    "halves_product_nv",
    "halves_finish",
    "halves_finish+added",
    "halves_finish+low+added+3",
]


@pytest.mark.parametrize("target", ["vulkan1.2", "vulkan1.3"])
def test_kernels_are_what_their_heads_say(target: str) -> None:
    """Those for matrix units too, which no CPU device runs."""
    assert_heads(VARIANTS, target)


@pytest.mark.parametrize("limits", [PLAIN, UNITS], ids=["plain", "units"])
def test_what_is_multiplied_and_added_keeps_its_place(limits: Limits) -> None:
    """A sum must not be written over an operand that other workgroups still multiply."""
    b = GraphBuilder("twice")
    dy = b.op("silu", b.add_input("dy", tensor("f32", 140, 128), Role.INPUT))
    w = b.add_input("w", tensor("t2", 128, 128), Role.WEIGHT)
    total = b.op("silu", b.op("add", b.op("ternary_matmul_t", dy, w), dy))
    graph = b.finish((total,))
    values = drawn(graph)
    fused = Fuse()(graph)
    assert "product_gradients" in {n.attributes.get("pattern") for n in fused.nodes}
    for seed in range(3):
        assert_right(graph, simulate(fused, values, limits, seed), values)
