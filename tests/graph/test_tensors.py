"""Types and the host values of the packed ones."""

import numpy as np
import pytest
from bitgraph.graph.tensors import Quantized, Ternary, pack_ternary, packed_bytes, unpack_ternary
from bitgraph.graph.types import DType, GraphError, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPES = st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple)


def test_the_layout_of_a_group() -> None:
    """Byte p holds the weights p, 32 + p, 64 + p and 96 + p, the first in the top bits."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, 256)
    packed = pack_ternary(codes)
    assert packed.dtype == np.uint8
    for group in range(2):
        for p in range(32):
            wanted = 0
            for quarter in range(4):
                wanted = wanted << 2 | int(codes[128 * group + 32 * quarter + p] + 1)
            assert packed[32 * group + p] == wanted


def test_a_group_that_is_not_full_is_padded_with_zeros() -> None:
    packed = pack_ternary(np.array([1]))
    assert packed.tolist() == [0b10010101] + [0b01010101] * 31


@settings(max_examples=60, derandomize=True, deadline=None)
@given(SHAPES, st.integers(0, 99))
def test_packing_loses_nothing(shape: tuple[int, ...], seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-1, 2, shape)
    packed = pack_ternary(codes)
    assert packed.nbytes == packed_bytes(codes.size)
    back = unpack_ternary(packed, shape)
    assert back.dtype == np.int8
    np.testing.assert_array_equal(back, codes)


def test_a_ternary_matrix() -> None:
    codes = np.random.default_rng(1).integers(-1, 2, (5, 130))
    weight = Ternary.pack(codes, 1.5)
    assert weight.shape == (5, 130)
    assert weight.nbytes == tensor("t2", 5, 130).nbytes == 6 * 32 + 4
    dense = weight.dense(np.float32)
    assert dense.dtype == np.float32
    np.testing.assert_array_equal(dense, codes)
    kept = weight.with_dense(np.float32)
    assert kept.dense(np.float32) is kept.dense(np.float32)
    assert kept.packed is weight.packed
    assert weight.dense(np.float32) is not weight.dense(np.float32)
    for each in (kept, weight):
        np.testing.assert_array_equal(each.dense(np.float32), codes)
        np.testing.assert_array_equal(each.dense_transposed(np.float32), codes.T)
        assert each.dense(np.float64).dtype == np.float64


def test_quantized_rows() -> None:
    q = Quantized(np.array([[127, -64]], np.int8), np.array([[2.0]], np.float32))
    assert q.shape == (1, 2)
    assert q.nbytes == 2 + 4
    assert q.dense(np.float64).tolist() == [[63.5, -32.0]]


@pytest.mark.parametrize("dtype", [d for d in DType if d not in (DType.T2, DType.Q8)])
def test_plain_types_have_numpy_ones(dtype: DType) -> None:
    type = tensor(dtype, 3, 5)
    assert type.nbytes == np.zeros((3, 5), dtype.numpy).nbytes
    assert dtype.is_float == (dtype.numpy.kind == "f")


@pytest.mark.parametrize("dtype", ["t2", "q8"])
def test_packed_types_have_none(dtype: str) -> None:
    with pytest.raises(GraphError, match=f"{dtype} is a packed type and has no NumPy element type"):
        _ = DType(dtype).numpy


@pytest.mark.parametrize(("columns", "stride"), [(1, 4), (4, 4), (5, 8), (6912, 6912)])
def test_rows_of_codes_begin_at_whole_words_on_a_device(columns: int, stride: int) -> None:
    assert tensor("q8", 3, columns).nbytes == 3 * (stride + 4)


def test_types_are_changed_in_one_part() -> None:
    type = tensor("f32", 2, 3)
    assert (type.rank, type.size, str(type)) == (2, 6, "f32[2,3]")
    assert str(type.with_shape(())) == "f32[]"
    assert str(type.with_dtype(DType.F64)) == "f64[2,3]"
    assert tensor("f32").size == 1
    assert tensor("q8", 0, 3).nbytes == 0
