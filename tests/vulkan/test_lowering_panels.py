"""Factors in panels: kernels of every device against NumPy, and who makes them."""

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.lowering import panels
from bitgraph.backends.vulkan.lowering.loss import LARGEST
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Role
from bitgraph.graph.tensors import Quantized, Ternary
from bitgraph.graph.types import tensor
from bitgraph.passes.fuse.fuse import Fuse
from op_cases import assert_close
from vulkan_cases import assert_heads, assert_kernel, simulate

UNITS = Limits(
    shared_memory=49152,
    subgroup=32,
    features=frozenset({"cooperative_matrix_s8", "cooperative_matrix_f16"}),
)
RNG = np.random.default_rng(0)
CHAIN = "chain_mv__rms_norm_0_1__quantize_2__panels_3__2_3_4"


def codes(rows: int, columns: int) -> Quantized:
    scale = RNG.uniform(1, 2, (rows, 1)).astype(np.float32)
    return Quantized(RNG.integers(-127, 128, (rows, columns), np.int8), scale)


def weights(rows: int, columns: int) -> Ternary:
    return Ternary.pack(RNG.integers(-1, 2, (rows, columns)), 0.5)


@pytest.mark.parametrize("rows", [5, 128, 300])
def test_codes(rows: int) -> None:
    x, high = codes(rows, 384), panels.padded(rows)
    y = np.ones((high, 24, 4), np.uint32)
    constants = {"ROWS": rows, "INNER": 384, "HIGH": high, "SIXTEENTHS": 24}
    assert_kernel("code_panels", constants, {"x": x, "y": y}, high // 32 * 3)
    back = panels.codes_from(panels.in_panels(x, high))
    np.testing.assert_array_equal(back[:rows], x.codes)
    assert not back[rows:].any()


@pytest.mark.parametrize("columns", [(4,), (128, 384, 256)], ids=str)
def test_weights(columns: tuple[int, ...]) -> None:
    ws = [weights(count, 384) for count in columns]
    high = panels.padded(sum(columns))
    constants = {"INNER": 384, "HIGH": high, "STRIPS": 6}
    constants |= {f"COLUMNS{k}": count for k, count in enumerate(columns)}
    operands = {f"w{k}": w for k, w in enumerate(ws)} | {"y": np.ones((high, 6, 4), np.uint32)}
    name = f"ternary_panels+{len(ws)}" if len(ws) > 1 else "ternary_panels"
    assert_kernel(name, constants, operands, high // 32)


@pytest.mark.parametrize("rows", [(40,), (96, 33, 64)], ids=str)
def test_weights_for_gradients(rows: tuple[int, ...]) -> None:
    inner, ws = sum(rows), [weights(count, 384) for count in rows]
    constants = {"INNER": inner, "COLUMNS": 384, "GROUPS": 3}
    constants |= {f"INNER{k}": count for k, count in enumerate(rows)}
    operands = {f"w{k}": w for k, w in enumerate(ws)} | {"y": np.ones((3, inner, 8), np.uint32)}
    name = f"ternary_panels_t+{len(ws)}" if len(ws) > 1 else "ternary_panels_t"
    assert_kernel(name, constants, operands, -(-inner * 6 // 256))


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("rows", [5, 140])
def test_rows_as_halves(rows: int, together: int) -> None:
    high, widths = panels.padded(rows), (64, 192)
    constants = {"ROWS": rows, "HIGH": high, "INNER": 256, "COLUMNS": 128, "WORKGROUP": 64}
    constants["TOGETHER"] = together
    operands = {"y": np.ones((high, 256), np.float16), "top": np.ones(rows, np.float32)}
    for k, width in enumerate(widths):
        constants[f"INNER{k}"] = width
        size = np.geomspace(1e-20, 1e20, rows)[:, None]
        operands[f"x{k}"] = (RNG.standard_normal((rows, width)) * size).astype(np.float32)
    ws = {f"w{k}": weights(width, 128) for k, width in enumerate(widths)}
    assert_kernel("row_halves+panels+2", constants, operands | ws, high // together, 1e-3)
    lows = {f"low{k}": (size * 1e7 * (k + 1)).astype(np.float32).repeat(5, axis=1) for k in (0, 1)}
    operands |= {"top": np.ones(rows, np.float32), **ws, **lows}
    assert_kernel(
        "row_halves+panels+joined+2", constants | {"RANK": 5}, operands, high // together, 1e-3
    )


@pytest.mark.parametrize(("count", "first"), [(150, 128), (150, 0), (0, 0)])
def test_gradients_of_logits(count: int, first: int) -> None:
    rows, places, columns, tiles = 200, 128, 1056, 9
    listed = RNG.permutation(rows).astype(np.uint32)
    logits = RNG.standard_normal((places, columns)).astype(np.float32)
    split = [logits[:, k::tiles] for k in range(tiles)]
    top = np.stack([some.max(axis=1) for some in split])
    total = np.stack(
        [np.exp(some - t[:, None]).sum(axis=1) for some, t in zip(split, top, strict=True)]
    )
    picked = np.zeros_like(top)
    operands = {
        "targets": RNG.integers(-1, columns, (1, 256)).astype(np.int32).reshape(256),
        "rows": listed,
        "count": np.array([count, first], np.uint32),
        "spread": RNG.uniform(0.1, 1, rows).astype(np.float32),
        "peak": RNG.uniform(0.1, 1, rows).astype(np.float32),
        "partial": np.stack([top, total, picked], axis=1).astype(np.float32),
        "nll": np.zeros(rows, np.float32),
        "z": logits,
        "dz": np.zeros((panels.padded(places), columns), np.float16),
    }
    constants = {"ROWS": rows, "PLACES": places, "COLUMNS": columns, "TILES": tiles}
    constants |= {"PITCH": 256, "SLICES": 3, "TOGETHER": 8, "HIGH": panels.padded(places)}
    assert_kernel("softmax_grad+halves", constants, operands, places // 8 * 3, 1e-3)
    assert LARGEST == 8192


def test_listed_rows_as_halves() -> None:
    rows, high = 140, 256
    operands = {
        "h": RNG.standard_normal((rows, 96)).astype(np.float32),
        "rows": RNG.permutation(rows).astype(np.uint32),
        "count": np.array([131], np.uint32),
        "power": np.ones(rows, np.float32),
        "halves": np.zeros((2, high, 96), np.float16),
    }
    constants = {"ROWS": rows, "WIDTH": 96, "TERMS": 2, "HIGH": high}
    # What is cut off goes to the second term, so the first may be off by a half more than rounding.
    assert_kernel("listed_halves", constants, operands, rows, 2e-3)


def test_a_chain_gives_them_too() -> None:
    rows, columns = 37, 384
    operands = {
        "v0": RNG.standard_normal((rows, columns)).astype(np.float32),
        "v1": RNG.uniform(0.5, 1, columns).astype(np.float32),
        "v2": np.zeros((rows, columns), np.float32),
        "v3": codes(rows, columns),
        "v4": np.zeros((128, 24, 4), np.uint32),
    }
    constants = {"ROWS": rows, "COLUMNS": columns, "WORKGROUP": 64, "HIGH": 128, "SIXTEENTHS": 24}
    # The same sums of squares in another order could round a code the other way.
    operands["v0"] = np.round(operands["v0"] * 4) / 4
    operands["v1"][:] = 1
    assert_kernel(CHAIN, {**constants, "EPS_2": 0.0}, operands, rows, 1e-6)


def test_products_take_those_of_the_chain() -> None:
    b = GraphBuilder("normed")
    x = b.add_input("x", tensor("f32", 140, 256), Role.INPUT)
    norm = b.add_input("norm", tensor("f32", 256), Role.WEIGHT)
    w = b.add_input("w", tensor("t2", 128, 256), Role.WEIGHT)
    graph = b.finish(
        (b.op("ternary_matmul", b.op("quantize", b.op("rms_norm", x, norm, eps=1e-5)), w),)
    )
    fused = Fuse()(graph)
    kernels = [d.kernel for d in make_plan(fused, UNITS).schedule.dispatches]
    chain = "chain_mv__rms_norm_0_1__quantize_2__panels_3__3_4"
    assert sorted(kernels) == [chain, "ternary_matmul_cm", "ternary_panels"]
    values = {
        "x": RNG.standard_normal((140, 256)).astype(np.float32),
        "norm": np.ones(256, np.float32),
        "w": weights(128, 256),
    }
    name = graph.outputs[0].name
    assert_close(simulate(fused, values, UNITS)[name], evaluate(graph, values)[name], 1e-5)


def test_kernels_are_what_their_heads_say() -> None:
    assert_heads(panels.MEANINGS)
