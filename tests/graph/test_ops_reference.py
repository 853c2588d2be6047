"""The central ops against formulations of their own: plain loops, integers, published vectors."""

import math
from typing import Any

import numpy as np
import pytest
from bitgraph.graph.ops import OPS
from bitgraph.graph.random import philox, unit_interval
from bitgraph.graph.tensors import Array, Quantized, Ternary
from hypothesis import example, given, settings
from hypothesis import strategies as st

QUIET = settings(max_examples=100, derandomize=True, deadline=None)


def evaluate(name: str, *operands: Any, **attrs: Any) -> Any:
    return OPS[name].eval(*operands, **attrs)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scalar(value: float, dtype: str = "f4") -> Array:
    return np.asarray(value, dtype=dtype)


# quantize


def quantized_row(row: Array) -> tuple[list[int], np.float32]:
    """s = 127 / max(absmax, 1e-5) in f32; Python rounds halves to even."""
    absmax = max(max(abs(float(x)) for x in row), float(np.float32(1e-5)))
    scale = np.float32(127) / np.float32(absmax)
    return [max(-128, min(127, round(float(np.float32(x) * scale)))) for x in row], scale


ROWS = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=12)


@QUIET
@given(ROWS)
@example([0.0])
@example([1e-30, -1e-38])
@example([2.5, -0.5, 1.5, 3.5, 127.0])
@example([127.00001, -127.00001])
def test_quantize_equals_a_scalar_loop(row: list[float]) -> None:
    x = np.array([row, row[::-1]], np.float32)
    q = evaluate("quantize", x)
    assert q.codes.dtype == np.int8
    for k in range(2):
        codes, scale = quantized_row(x[k])
        assert q.codes[k].tolist() == codes
        assert q.scale[k, 0] == scale


def test_quantize_rounds_ties_to_even() -> None:
    row = [127.0, 0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5, 126.5, 125.5]
    q = evaluate("quantize", np.array([row], np.float32))
    assert q.scale.tolist() == [[1.0]]
    assert q.codes.tolist() == [[127, 0, 2, 2, 4, 0, -2, -2, 126, 126]]


def test_quantize_holds_the_absmax_above_its_floor() -> None:
    x = np.array([[0.0, 0.0], [1e-6, -5e-7], [1e-5, 0.0]], np.float32)
    q = evaluate("quantize", x)
    assert np.all(q.scale == np.float32(127) / np.float32(1e-5))
    assert q.codes.tolist() == [[0, 0], [13, -6], [127, 0]]


def test_quantize_uses_the_whole_range_and_no_more() -> None:
    x = generator().standard_normal((500, 64)).astype(np.float32)
    x[:, 0] = np.where(np.arange(500) % 2, 6, -6) * (1 + generator(1).random(500))
    codes = evaluate("quantize", x).codes
    assert np.abs(codes.astype(int)).max(axis=1).tolist() == [127] * 500
    restored = evaluate("quantize", x).dense(np.float32)
    assert np.all(np.abs(restored - x) <= np.abs(x).max(axis=1, keepdims=True) / 254 * 1.0001)


def test_dequantize_divides_codes_by_their_rows_scale() -> None:
    codes = np.array([[127, -128, 0], [1, 2, -3]], np.int8)
    x = evaluate("dequantize", Quantized(codes, np.array([[2.0], [0.5]], np.float32)))
    assert x.dtype == np.float32
    assert x.tolist() == [[63.5, -64.0, 0.0], [2.0, 4.0, -6.0]]


# ternarize


@QUIET
@given(st.lists(ROWS.filter(lambda row: len(row) >= 2), min_size=1, max_size=1))
@example([[0.0, 0.0]])
@example([[1e-6, -1e-7]])
def test_ternarize_equals_a_scalar_loop(rows: list[list[float]]) -> None:
    w = np.array(rows, np.float32)
    mean = np.float32(np.abs(w).mean(dtype=np.float32))
    scale = max(float(mean), float(np.float32(1e-5)))
    inverse = np.float32(1) / np.float32(scale)
    t = evaluate("ternarize", w)
    assert t.scale == scale
    assert t.codes().tolist() == [
        [max(-1, min(1, round(float(np.float32(x) * inverse)))) for x in row] for row in w
    ]


def test_ternarize_rounds_ties_to_even_and_takes_one_scale_for_all() -> None:
    w = np.array([[0.5, -0.5, 1.5], [1.5, 1.0, -1.0]], np.float32)  # absmean 1
    t = evaluate("ternarize", w)
    assert t.scale == 1.0
    assert t.codes().tolist() == [[0, 0, 1], [1, 1, -1]]
    assert t.shape == (2, 3)


def test_ternary_products_take_the_floats_behind_the_codes_too() -> None:
    rng = generator()
    w = Ternary.pack(rng.integers(-1, 2, (5, 7)), 0.25)
    dense = w.dense(np.float32) * np.float32(w.scale)
    x, dy = (rng.standard_normal((3, n)).astype(np.float32) for n in (7, 5))
    for name, left in (("ternary_matmul", x), ("ternary_matmul_t", dy)):
        np.testing.assert_allclose(evaluate(name, left, dense), evaluate(name, left, w), rtol=1e-5)
    q = evaluate("quantize", x)
    exact = evaluate("ternary_matmul", q, w)
    np.testing.assert_allclose(evaluate("ternary_matmul", q, dense), exact, rtol=1e-5)


# products


@pytest.mark.parametrize("width", [1, 127, 128, 129, 2560, 6912])
def test_ternary_matmul_is_exact_in_integers(width: int) -> None:
    rng = generator(width)
    codes = rng.integers(-128, 128, (5, width), dtype=np.int8)
    weights = rng.integers(-1, 2, (9, width))
    codes[0], weights[0] = -128, 1  # the largest sum there is
    scale = rng.uniform(1, 100, (5, 1)).astype(np.float32)
    y = evaluate("ternary_matmul", Quantized(codes, scale), Ternary.pack(weights, 1.7))
    sums = codes.astype(np.int64) @ weights.T.astype(np.int64)
    assert sums[0, 0] == -128 * width
    wanted = sums.astype(np.float32) / scale * np.float32(1.7)
    assert y.dtype == np.float32
    assert y.tobytes() == wanted.tobytes()


def test_ternary_products_of_floats_equal_a_loop() -> None:
    rng = generator(3)
    weights = rng.integers(-1, 2, (4, 7))
    packed = Ternary.pack(weights, 0.25)
    x, dy = rng.standard_normal((3, 7)), rng.standard_normal((3, 4))
    y = evaluate("ternary_matmul", x, packed)
    dx = evaluate("ternary_matmul_t", dy, packed)
    for n in range(3):
        for o in range(4):
            assert y[n, o] == pytest.approx(
                0.25 * math.fsum(x[n, i] * weights[o, i] for i in range(7)), rel=1e-12, abs=1e-14
            )
        for i in range(7):
            assert dx[n, i] == pytest.approx(
                0.25 * math.fsum(dy[n, o] * weights[o, i] for o in range(4)), rel=1e-12, abs=1e-14
            )


def test_dense_products_equal_a_loop() -> None:
    rng = generator(4)
    a, b, c = (rng.standard_normal(shape) for shape in ((3, 5), (2, 5), (3, 2)))
    y = evaluate("matmul", a, b, transpose_b=True)
    z = evaluate("matmul", c, b, transpose_b=False)
    w = evaluate("contract_rows", a, c)
    for n in range(3):
        for o in range(2):
            assert y[n, o] == pytest.approx(math.fsum(a[n, i] * b[o, i] for i in range(5)))
        for i in range(5):
            assert z[n, i] == pytest.approx(math.fsum(c[n, o] * b[o, i] for o in range(2)))
    for i in range(5):
        for o in range(2):
            assert w[i, o] == pytest.approx(math.fsum(a[n, i] * c[n, o] for n in range(3)))


def test_matmul_takes_a_half_precision_matrix_as_it_is() -> None:
    rng = generator(5)
    a, b = rng.standard_normal((3, 8)).astype(np.float32), rng.standard_normal((4, 8))
    half = b.astype(np.float16)
    y = evaluate("matmul", a, half, transpose_b=True)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(
        y, evaluate("matmul", a, half.astype(np.float32), transpose_b=True)
    )


# norm


def test_rms_norm_equals_a_loop() -> None:
    rng = generator(6)
    x, weight = rng.standard_normal((4, 6)), rng.standard_normal(6)
    x[2] = 0
    y = evaluate("rms_norm", x, weight, eps=1e-5)
    for n in range(4):
        rms = math.sqrt(math.fsum(v * v for v in x[n]) / 6 + 1e-5)
        for i in range(6):
            assert y[n, i] == pytest.approx(x[n, i] / rms * weight[i], rel=1e-13, abs=1e-300)
    assert np.all(y[2] == 0)


def test_rms_norm_in_f32_survives_the_peaks_of_a_real_model() -> None:
    """relu2(gate) up reaches 1e10 in BitNet b1.58 2B4T, which the sum of squares must hold."""
    x = np.full((2, 6912), 1.07e10, np.float32)
    x[1, ::2] = -3.0
    y = evaluate("rms_norm", x, np.ones(6912, np.float32), eps=1e-5)
    np.testing.assert_allclose(y[0], 1.0, rtol=1e-5)
    np.testing.assert_allclose(y[1, 1::2], math.sqrt(2), rtol=1e-5)


# elementwise


def test_pointwise_functions_equal_their_formulas() -> None:
    for x in [-700.0, -30.0, -1.5, -1e-9, 0.0, 1e-9, 0.3, 2.0, 40.0, 700.0]:
        sigmoid = 1 / (1 + math.exp(-x))
        value = np.array([[x]])
        assert evaluate("squared_relu", value)[0, 0] == max(x, 0.0) ** 2
        assert evaluate("relu", value)[0, 0] == max(x, 0.0)
        assert evaluate("silu", value)[0, 0] == pytest.approx(x * sigmoid, rel=1e-12, abs=1e-12)
        slope = sigmoid + x * sigmoid * (1 - sigmoid)
        assert evaluate("silu_slope", value)[0, 0] == pytest.approx(slope, rel=1e-12, abs=1e-12)


# rotary positions


def test_rope_table_holds_cosines_then_sines() -> None:
    frequencies = np.array([1.0, 0.1, 0.003], np.float64)
    table = evaluate("rope_table", np.array([0, 1, 4095], np.int32), frequencies)
    for row, position in zip(table, (0, 1, 4095), strict=True):
        for i, frequency in enumerate(frequencies):
            assert row[i] == math.cos(position * frequency)
            assert row[3 + i] == math.sin(position * frequency)


def test_rope_multiplies_pairs_by_complex_phases() -> None:
    rng = generator(7)
    x, angle = rng.standard_normal((5, 3, 8)), rng.uniform(-9, 9, (5, 4))
    table = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    y = evaluate("rope", x, table, inverse=False)
    pairs = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angle)[:, None, :]
    np.testing.assert_allclose(y[..., :4], pairs.real, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(y[..., 4:], pairs.imag, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(evaluate("rope", y, table, inverse=True), x, rtol=1e-12, atol=1e-13)


def test_rope_makes_scores_depend_on_the_distance_alone() -> None:
    rng = generator(8)
    q, k = rng.standard_normal((2, 1, 8))
    frequencies = 10000.0 ** (-np.arange(4) / 4)

    def score(query_position: int, key_position: int) -> float:
        rotated = []
        for x, position in ((q, query_position), (k, key_position)):
            table = evaluate("rope_table", np.array([position], np.int32), frequencies)
            rotated.append(evaluate("rope", x[None], table, inverse=False).reshape(-1))
        return float(np.dot(*rotated))

    assert score(17, 5) == pytest.approx(score(112, 100), rel=1e-10)
    assert score(17, 5) != pytest.approx(score(17, 6), rel=1e-3)


# attention


def attention_by_loops(q: Array, k: Array, v: Array, first: Array, last: Array) -> tuple[Any, Any]:
    """One query and head at a time, with softmax and its log-sum written out."""
    rows, heads, width = q.shape
    group = heads // k.shape[1]
    out, lse = np.zeros_like(q), np.zeros((rows, heads))
    for n in range(rows):
        for h in range(heads):
            keys = range(first[n], last[n] + 1)
            scores = [float(q[n, h] @ k[j, h // group]) / math.sqrt(width) for j in keys]
            weights = [math.exp(s) for s in scores]
            total = math.fsum(weights)
            out[n, h] = sum(
                w / total * v[j, h // group] for w, j in zip(weights, keys, strict=True)
            )
            lse[n, h] = math.log(total)
    return out, lse


def packed_ranges(lengths: list[int]) -> tuple[Array, Array]:
    starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    return starts.astype(np.int32), np.arange(sum(lengths), dtype=np.int32)


@QUIET
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 5),
)
@example([1, 1, 1], 2, 1, 2)
def test_attention_equals_loops_over_queries(
    lengths: list[int], group: int, kv_heads: int, width: int
) -> None:
    rng = generator(sum(lengths))
    first, last = packed_ranges(lengths)
    rows = len(first)
    q = rng.standard_normal((rows, group * kv_heads, width)) * 3
    k, v = rng.standard_normal((2, rows, kv_heads, width))
    out, lse = evaluate("attention", q, k, v, first, last)
    wanted, wanted_lse = attention_by_loops(q, k, v, first, last)
    np.testing.assert_allclose(out, wanted, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(lse, wanted_lse, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("lengths", [[300], [63, 1, 64, 65, 107], [1] * 130, [64, 64, 128]])
def test_attention_of_many_rows_equals_loops(lengths: list[int]) -> None:
    """Lengths around any block that an implementation may cut the queries into."""
    rng = generator(len(lengths))
    first, last = packed_ranges(lengths)
    q, k, v = rng.standard_normal((3, len(first), 1, 4))
    out, lse = evaluate("attention", q, k, v, first, last)
    wanted, wanted_lse = attention_by_loops(q, k, v, first, last)
    np.testing.assert_allclose(out, wanted, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(lse, wanted_lse, rtol=1e-11, atol=1e-12)


def test_attention_reads_a_cache_with_more_slots_than_queries() -> None:
    rng = generator(9)
    q = rng.standard_normal((2, 4, 8))
    k, v = rng.standard_normal((2, 50, 2, 8))
    k[12:] = v[12:] = np.nan  # slots that hold nothing yet
    first, last = np.zeros(2, np.int32), np.array([10, 11], np.int32)
    out, lse = evaluate("attention", q, k, v, first, last)
    wanted, wanted_lse = attention_by_loops(q, k, v, first, last)
    np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(lse, wanted_lse, rtol=1e-12, atol=1e-13)


def test_attention_does_not_overflow_on_large_scores() -> None:
    q = np.full((3, 1, 4), 200.0, np.float32)
    k = np.full((3, 1, 4), 200.0, np.float32) * np.array([1, -1, 1], np.float32)[:, None, None]
    v = np.arange(12, dtype=np.float32).reshape(3, 1, 4)
    out, lse = evaluate("attention", q, k, v, *packed_ranges([3]))
    np.testing.assert_allclose(out[:, 0], [v[0, 0], v[0, 0], (v[0, 0] + v[2, 0]) / 2])
    np.testing.assert_allclose(lse[:, 0], [8e4, 8e4, 8e4 + math.log(2)])


# embedding


def test_rows_are_gathered_scattered_and_written() -> None:
    table = generator(10).standard_normal((6, 3)).astype(np.float16)
    ids = np.array([5, 0, 5, 2], np.int32)
    gathered = evaluate("gather_rows", table, ids)
    assert gathered.dtype == np.float32
    assert gathered.tolist() == [[float(v) for v in table[i]] for i in ids]
    x = np.arange(12, dtype=np.float64).reshape(4, 3)
    scattered = evaluate("scatter_add_rows", x, ids, rows=6)
    assert scattered[5].tolist() == [x[0, i] + x[2, i] for i in range(3)]
    assert scattered[[0, 2]].tolist() == [x[1].tolist(), x[3].tolist()]
    assert not scattered[[1, 3, 4]].any()
    cache = np.full((5, 3), -1.0)
    written = evaluate("write_rows", cache, x[:2], np.array([4, 1], np.int32))
    assert written.tolist() == [[-1.0] * 3, x[1].tolist(), [-1.0] * 3, [-1.0] * 3, x[0].tolist()]


# loss


@pytest.mark.parametrize(("vocabulary", "spread"), [(7, 1.0), (7, 400.0), (20000, 3.0)])
def test_cross_entropy_equals_a_log_of_sums(vocabulary: int, spread: float) -> None:
    """20000 entries do not fit into one chunk of the vocabulary."""
    rng = generator(11)
    h = rng.standard_normal((6, 4)) * spread
    table = rng.standard_normal((vocabulary, 4))
    labels = np.array([0, vocabulary - 1, -1, min(8191, vocabulary - 1), vocabulary // 2, -1])
    nll, lse = evaluate("linear_cross_entropy", h, table, labels.astype(np.int32))
    for n, label in enumerate(labels):
        z = [float(h[n] @ row) for row in table]
        top = max(z)
        wanted = top + math.log(math.fsum(math.exp(value - top) for value in z))
        assert lse[n] == (0 if label < 0 else pytest.approx(wanted, rel=1e-12))
        picked = 0 if label < 0 else wanted - z[label]
        assert nll[n] == pytest.approx(picked, rel=1e-10, abs=1e-11)


def test_the_gradient_of_cross_entropy_is_softmax_minus_one_hot() -> None:
    rng = generator(12)
    h, table = rng.standard_normal((3, 4)), rng.standard_normal((5, 4))
    labels = np.array([2, -1, 4], np.int32)
    _, lse = evaluate("linear_cross_entropy", h, table, labels)
    spread, peak = rng.standard_normal((2, 3))
    dh = evaluate("linear_cross_entropy_grad", spread, peak, h, table, labels, lse)
    z = h @ table.T
    softmax = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    wanted = (spread[:, None] * softmax - peak[:, None] * np.eye(5)[labels]) @ table
    np.testing.assert_allclose(dh[[0, 2]], wanted[[0, 2]], rtol=1e-12, atol=1e-13)
    assert not dh[1].any()


# optimizer


ADAMW = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}


def adamw_by_scalars(
    p: float, m: float, v: float, gradients: list[float], clip: float, lr: float, attrs: Any
) -> tuple[float, float, float]:
    """Some steps of Loshchilov and Hutter's algorithm 2 on one number."""
    for step, g in enumerate(gradients, 1):
        g *= clip
        m = attrs["beta1"] * m + (1 - attrs["beta1"]) * g
        v = attrs["beta2"] * v + (1 - attrs["beta2"]) * g * g
        m_hat, v_hat = m / (1 - attrs["beta1"] ** step), v / (1 - attrs["beta2"] ** step)
        p -= lr * attrs["weight_decay"] * p
        p -= lr * m_hat / (math.sqrt(v_hat) + attrs["eps"])
    return p, m, v


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("clip", [1.0, 0.37])
def test_adamw_equals_a_scalar_loop(weight_decay: float, clip: float) -> None:
    attrs = {**ADAMW, "weight_decay": weight_decay}
    rng = generator(13)
    p = start = rng.standard_normal((2, 3))
    m, v = np.zeros_like(p), np.zeros_like(p)
    gradients = rng.standard_normal((20, 2, 3))
    for step, g in enumerate(gradients, 1):
        given_ = scalar(clip, "f8"), scalar(0.03, "f8"), scalar(step, "i4")
        p, m, v = evaluate("adamw", p, g, m, v, *given_, **attrs)
    for index in np.ndindex(2, 3):
        series = [float(g[index]) for g in gradients]
        wanted = adamw_by_scalars(float(start[index]), 0.0, 0.0, series, clip, 0.03, attrs)
        assert (p[index], m[index], v[index]) == pytest.approx(wanted, rel=1e-12)


SIZES = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.lists(SIZES, min_size=1, max_size=12),
    st.floats(-(2.0**50), 2.0**50, width=32),
    st.floats(0, 1, width=32),
    st.floats(0, 2.0**50, width=32),
    st.sampled_from([0.0, 1.0]),
)
@example([0.0] * 5, 1.0, 1.0, 0.0, 0.0)
@example([1e-30] * 5, 1.0, 1.0, 1e-3, 0.0)
@example([1e30, 0.0, -1e30], 1.0, 1.0, 1e-3, 1.0)
@example([float(np.finfo(np.float32).max)] * 5, 0.0, 1.0, 1.0, 0.0)
def test_gradients_of_any_size_keep_adamw_finite(
    gradients: list[float], start: float, clip: float, lr: float, max_norm: float
) -> None:
    p = np.array([[start]], np.float32)
    m, v = np.zeros_like(p), np.zeros_like(p)
    attrs = {**ADAMW, "weight_decay": 0.0}
    for step, gradient in enumerate(gradients, 1):
        g = np.full_like(p, gradient)
        clip_ = evaluate("clip_factor", evaluate("global_norm", g), max_norm=max_norm)
        given_ = clip_ * np.float32(clip), scalar(lr), scalar(step, "i4")
        p, m, v = evaluate("adamw", p, g, m, v, *map(np.asarray, given_), **attrs)
        assert np.isfinite([p, m, v]).all()
    if lr == 0:
        assert p[0, 0] == np.float32(start)


@pytest.mark.parametrize("gradient", [0.0, 1e-30, 1e30, -3e38])
def test_an_absurd_learning_rate_overflows_without_a_nan(gradient: float) -> None:
    p = np.array([[1.0, -1e-20, 0.0]], np.float32)
    zeros = np.zeros_like(p)
    given_ = scalar(1.0), scalar(1e30), scalar(1, "i4")
    after = evaluate("adamw", p, np.full_like(p, gradient), zeros, zeros, *given_, **ADAMW)
    assert not np.isnan(after).any()


def test_a_parameter_recovers_from_one_huge_gradient() -> None:
    p, m, v = np.zeros((3, 1, 1), np.float32)
    for step in range(1, 10000):
        g = np.full_like(p, 1e30 if step == 1 else 1.0)
        given_ = scalar(1.0), scalar(1e-3), scalar(step, "i4")
        p, m, v = evaluate("adamw", p, g, m, v, *given_, **{**ADAMW, "beta2": 0.99})
    assert v[0, 0] == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    g = np.array([[1.0, bad]], np.float32)
    norm = evaluate("global_norm", np.ones((2, 2), np.float32), g)
    assert np.isnan(norm)
    clips = [evaluate("clip_factor", norm, max_norm=limit) for limit in (0.0, 1.0)]
    assert np.isnan(clips).all()
    p, m, v = generator().random((3, 1, 2), np.float32)
    after = evaluate("adamw", p, g, m, v, clips[0], scalar(0.1), scalar(1, "i4"), **ADAMW)
    for old, new in zip((p, m, v), after, strict=True):
        assert old.tolist() == new.tolist()
        assert old is not new


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["norm", "loss"])
def test_guard_refuses_everything_after_the_first_bad_step(bad: float, place: str) -> None:
    good = {"norm": scalar(2.0), "loss": scalar(3.0)}
    sound, norms = scalar(1, "i4"), []
    for step in (good, {**good, place: scalar(bad)}, good):
        norm, sound = evaluate("guard", step["norm"], step["loss"], sound)
        norms.append(float(norm))
    assert norms[0] == 2.0
    assert np.isnan(norms[1:]).all()
    assert sound == 0


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e19, 1e30])
def test_global_norm_neither_overflows_nor_vanishes(size: float) -> None:
    parts = [np.full((2, 2), size, np.float32), np.full(5, -size, np.float32)]
    norm = evaluate("global_norm", *parts)
    assert norm.dtype == np.float32
    assert norm.shape == ()
    assert norm == pytest.approx(3 * size, rel=1e-6)


def test_global_norm_stays_finite_where_f32_ends() -> None:
    limit = np.finfo(np.float32).max
    assert evaluate("global_norm", np.full((3, 3), limit, np.float32)) == limit


@pytest.mark.parametrize(
    ("norm", "max_norm", "factor"),
    [(0.0, 1.0, 1.0), (0.5, 1.0, 1.0), (4.0, 1.0, 0.25), (1e30, 2.0, 2e-30), (7.0, 0.0, 1.0)],
)
def test_clip_factor(norm: float, max_norm: float, factor: float) -> None:
    assert evaluate("clip_factor", scalar(norm), max_norm=max_norm) == pytest.approx(
        factor, rel=1e-6
    )


# sampling


def test_rows_give_minus_one_behind_a_stop() -> None:
    stops = np.array([7, 9, -1], np.int32)
    stopped = np.zeros(3, np.int32)
    seen = []
    for ids in ([1, 9, 3], [7, 5, 3], [2, 7, 3]):
        following, stopped = evaluate("until_stop", np.array(ids, np.int32), stops, stopped)
        seen.append(following.tolist())
    assert seen == [[1, 9, 3], [7, -1, 3], [-1, -1, 3]]
    assert stopped.tolist() == [1, 1, 0]


def sample(
    logits: Array,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    positions: Array | None = None,
    reach: float = -1.0,
) -> Array:
    rows = np.arange(len(logits), dtype=np.int32) if positions is None else positions
    knobs = (
        scalar(temperature),
        scalar(top_k, "i4"),
        scalar(top_p),
        scalar(reach),
        scalar(seed, "u4"),
    )
    ids: Array = evaluate("sample", logits.astype(np.float32), *knobs, rows)
    return ids


def test_greedy_takes_the_largest_and_the_lowest_id_among_equals() -> None:
    logits = np.array([[1, 3, 3, 2], [5, 5, 5, 5], [-9, -8, -7, -7]])
    for seed in range(3):
        assert sample(logits, temperature=0.0, seed=seed).tolist() == [1, 0, 2]


@given(st.integers(0, 2**31), st.floats(0.1, 5.0))
@QUIET
def test_the_best_one_alone_equals_greedy(seed: int, temperature: float) -> None:
    logits = generator(seed).integers(0, 4, (5, 9))
    greedy = sample(logits, temperature=0.0)
    assert sample(logits, temperature, top_k=1, seed=seed).tolist() == greedy.tolist()
    assert sample(logits, temperature, top_p=0.0, seed=seed).tolist() == greedy.tolist()


def chi_square(ids: Array, p: Array) -> float:
    counts = np.bincount(ids, minlength=len(p))
    assert not counts[p == 0].any()
    expected = p[p > 0] * len(ids)
    return float(np.sum((counts[p > 0] - expected) ** 2 / expected))


LOGITS = np.array([1.0, -0.5, 0.3, 2.0, 0.0, 1.2, -1.0, 0.7])


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    result: Array = e / e.sum()
    return result


@pytest.mark.parametrize(("temperature", "draws"), [(1.0, 20000), (0.5, 3000), (2.0, 3000)])
def test_draws_follow_the_softmax(temperature: float, draws: int) -> None:
    ids = sample(np.tile(LOGITS, (draws, 1)), temperature, seed=7)
    # 29.9 is exceeded once in ten thousand times with 7 degrees of freedom
    assert chi_square(ids, softmax(LOGITS / temperature)) < 29.9


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (3, 1.0, {3, 5, 0}),
        (0, 0.5, {3, 5}),  # 0.37 alone is not half, with 0.17 it is
        (0, 0.999, {0, 1, 2, 3, 4, 5, 6, 7}),
        (4, 0.55, {3, 5}),  # of the four best, these hold 0.47 and 0.21
        (2, 0.01, {3}),
        (99, 1.0, {0, 1, 2, 3, 4, 5, 6, 7}),
    ],
)
def test_filters_keep_the_best_and_their_proportions(
    top_k: int, top_p: float, kept: set[int]
) -> None:
    ids = sample(np.tile(LOGITS, (2000, 1)), 1.0, top_k, top_p, seed=3)
    assert set(ids.tolist()) == kept
    mask = np.isin(np.arange(8), list(kept))
    assert chi_square(ids, np.where(mask, softmax(np.where(mask, LOGITS, -np.inf)), 0)) < 29.9


@pytest.mark.parametrize(
    ("min_p", "temperature", "top_k", "kept"),
    [
        (0.5, 1.0, 0, {3}),  # the second is exp(-0.8) = 0.45 of the first
        (0.4, 1.0, 0, {3, 5}),
        (0.4, 2.0, 0, {0, 2, 3, 5, 7}),  # of the same, hotter: the square roots
        (0.4, 2.0, 3, {0, 3, 5}),
        (1.0, 1.0, 0, {3}),
        (1e-9, 1.0, 0, {0, 1, 2, 3, 4, 5, 6, 7}),
    ],
)
def test_min_p_keeps_what_is_near_the_best(
    min_p: float, temperature: float, top_k: int, kept: set[int]
) -> None:
    p = softmax(LOGITS / temperature)
    near = set(np.flatnonzero(p >= min_p * p.max()).tolist())
    assert kept == (near if top_k == 0 else near & {0, 3, 5})
    reach = -temperature * np.log(min_p)
    ids = sample(np.tile(LOGITS, (2000, 1)), temperature, top_k, reach=reach, seed=3)
    assert set(ids.tolist()) == kept


def test_a_reach_of_zero_keeps_all_that_are_best() -> None:
    ids = sample(np.tile([1.0, 3.0, 3.0, 2.0], (300, 1)), reach=0.0)
    assert set(ids.tolist()) == {1, 2}


def test_what_was_seen_is_penalized() -> None:
    logits = np.array([[2.0, -2.0, 0.0, 4.0], [-8.0, 8.0, 1.0, -1.0]], np.float32)
    seen = np.array([1, 1, 1, 0], np.float32)
    penalized = evaluate("penalize", logits, seen, scalar(4.0), scalar(0.25))
    assert penalized.tolist() == [[0.5, -8.0, 0.0, 4.0], [-32.0, 2.0, 0.25, -1.0]]


def test_the_smallest_set_that_reaches_top_p_is_kept() -> None:
    """Four equal tokens: two of them hold one half exactly, and ties go to the lower id."""
    ids = sample(np.zeros((300, 4)), 1.0, top_p=0.5)
    assert set(ids.tolist()) == {0, 1}


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    logits = np.tile(LOGITS, (200, 1))
    ids = sample(logits, seed=5)
    assert sample(logits, seed=5).tolist() == ids.tolist()
    assert sample(logits, seed=6).tolist() != ids.tolist()
    backwards = np.arange(199, -1, -1, dtype=np.int32)
    assert sample(logits, seed=5, positions=backwards).tolist() == ids[::-1].tolist()
    alone = sample(logits[:1], seed=5, positions=np.array([42], np.int32))
    assert alone[0] == ids[42]


# random numbers


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    """Known answers of Random123's kat_vectors for philox4x32-10."""
    result = philox(counter, key[0] | key[1] << 32)
    assert result.dtype == np.uint32
    assert tuple(int(word) for word in result) == words


def test_philox_broadcasts_its_counter() -> None:
    ids = np.arange(5)
    together = philox((ids, 9, 0, 3), 77)
    assert together.shape == (4, 5)
    for k in range(5):
        assert together[:, k].tolist() == philox((k, 9, 0, 3), 77).tolist()


def test_unit_interval_is_open_and_uniform() -> None:
    ends = unit_interval(np.array([0, 2**32 - 1], np.uint32))
    assert ends.dtype == np.float32
    assert 0 < ends[0] < 1e-6
    assert 1 - 1e-6 < ends[1] < 1
    u = unit_interval(philox((np.arange(40000), 0, 0, 0), 1)[0])
    assert abs(u.mean() - 0.5) < 0.006
    assert abs(u.var() - 1 / 12) < 0.002
