"""Dropout: which elements are kept, and that nothing but the counters decides it."""

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.types import GraphError, tensor
from bitgraph.passes.grad import Grad

SHAPE = (64, 640)


def mask(draw: int = 1, p: float = 0.1, seed: int = 0, stream: int = 5) -> np.ndarray:
    """Where ones are kept."""
    ones = np.ones(SHAPE, np.float32)
    y = OPS["dropout"].eval(ones, np.int32(draw), p=p, seed=seed, stream=stream)
    assert isinstance(y, np.ndarray)
    assert set(np.unique(y)) <= {np.float32(0), np.float32(1 / (1 - p))}
    return y > 0


def philox_by_hand(counter: list[int], key: int) -> list[int]:
    """Philox4x32-10 on whole numbers of any size, after the paper."""
    c, k = list(counter), [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def test_each_element_is_decided_by_its_counter() -> None:
    got = mask(draw=-3, p=0.4, seed=2**32 - 1, stream=2**31 + 9).reshape(-1)
    for i in (0, 1, 2, 3, 4, 7, 1001, got.size - 1):
        words = philox_by_hand([i // 4, 2**32 - 3, 2**31 + 9, 0], 2**32 - 1)
        assert got[i] == (((words[i % 4] >> 9) + 0.5) / 2**23 >= 0.4), i


@pytest.mark.parametrize("p", [0.0, 0.05, 0.1, 0.5, 0.9])
def test_the_share_that_is_kept(p: float) -> None:
    """Of 40,960 elements, within four standard deviations."""
    kept = mask(p=p).mean()
    assert abs(kept - (1 - p)) <= 4 * np.sqrt(p * (1 - p) / np.prod(SHAPE))


@pytest.mark.parametrize("other", [{"draw": 2}, {"seed": 1}, {"stream": 6}], ids=str)
def test_another_draw_seed_or_stream_is_independent(other: dict[str, int]) -> None:
    """Two masks of half agree in half of the elements."""
    agreeing = (mask(p=0.5) == mask(p=0.5, **other)).mean()
    assert abs(agreeing - 0.5) <= 4 * np.sqrt(0.25 / np.prod(SHAPE))


def test_rows_and_columns_differ() -> None:
    kept = mask(p=0.5)
    assert len({row.tobytes() for row in kept}) == SHAPE[0]
    assert len({column.tobytes() for column in kept.T}) == SHAPE[1]


def dropping() -> Graph:
    b = GraphBuilder("g")
    x = b.add_input("x", tensor("f32", *SHAPE), Role.PARAM)
    draw = b.add_input("draw", tensor("i32"), Role.INPUT)
    weight = b.add_input("w", tensor("f32", *SHAPE), Role.INPUT)
    y = b.op("dropout", x, draw, name="y", p=0.3, seed=1, stream=2)
    return b.finish((b.op("dot", y, weight, name="loss"), y))


@pytest.mark.parametrize("draw", [0, 1, 77])
def test_the_gradient_has_the_mask_of_its_draw(draw: int) -> None:
    ones = np.ones(SHAPE, np.float32)
    values = {"x": ones, "w": ones, "draw": np.asarray(draw, np.int32)}
    results = evaluate(Grad()(dropping()), values)
    np.testing.assert_array_equal(results["x.grad"], results["y"])


def test_what_is_dropped_is_zero_even_if_it_was_not_finite() -> None:
    kept = mask(p=0.5)
    x = np.where(kept, 1.0, np.nan).astype(np.float32)
    y = OPS["dropout"].eval(x, np.int32(1), p=0.5, seed=0, stream=5)
    np.testing.assert_array_equal(y, 2 * kept.astype(np.float32))


@pytest.mark.parametrize(
    ("attrs", "said"),
    [
        ({"p": 1.0}, "p 1.0 is not in"),
        ({"p": -0.1}, "p -0.1 is not in"),
        ({"seed": 2**32}, "seed"),
        ({"stream": -1}, "stream"),
    ],
)
def test_attributes_out_of_range(attrs: dict[str, float], said: str) -> None:
    b = GraphBuilder("g")
    x = b.add_input("x", tensor("f32", 2), Role.INPUT)
    draw = b.add_input("draw", tensor("i32"), Role.INPUT)
    with pytest.raises(GraphError, match=said):
        b.op("dropout", x, draw, **{"p": 0.1, "seed": 0, "stream": 0, **attrs})
