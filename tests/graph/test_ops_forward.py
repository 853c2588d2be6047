"""What must hold of every op's eval, infer and split, on every case."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from bitgraph.graph.ops import FAMILIES, OPS, infer_types
from bitgraph.graph.ops.draws import normal
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue, Quantized
from bitgraph.graph.types import DType, GraphError, TensorType
from bitgraph.graph.values import check_type
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import arrays_of, assert_close, assert_same_bits, draw, fixed_cases, random_cases, run

F64 = np.dtype(np.float64)
WITH_SPLIT = [op for op in OPS.values() if op.split is not None]


def infer(op: OpDef, case: Case) -> tuple[TensorType, ...]:
    return infer_types(op.name, tuple(item.type for item in case.operands), case.attrs)


def promoted(value: HostValue) -> HostValue:
    """Floats as float64; int8 codes as the float64 values they stand for."""
    if isinstance(value, Quantized):
        return value.dense(F64)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(F64)
    return value


def frozen(value: HostValue) -> HostValue:
    """Forbid writing to a value's arrays."""
    for array in arrays_of(value):
        array.flags.writeable = False
    return value


def test_every_family_has_ops_and_every_name_is_its_own() -> None:
    names = [op.name for family in FAMILIES.values() for op in family]
    assert all(FAMILIES.values())
    assert len(names) == len(set(names)) == len(OPS)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_an_op_has_cases_within_and_beyond_its_ranges(op: OpDef) -> None:
    ranges = op.cases.ranges
    assert len(op.cases.fixed) >= 3
    assert all(low < high for low, high in ranges)
    assert all(len(sizes) == len(ranges) for sizes in op.cases.fixed)
    assert len(set(op.cases.fixed)) == len(op.cases.fixed)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_an_op_without_gradient_says_why(op: OpDef) -> None:
    assert (op.vjp is None) == bool(op.no_vjp)
    with pytest.raises(ValueError, match="needs either a vjp or the reason"):
        replace(op, vjp=None, no_vjp="")
    with pytest.raises(ValueError, match="needs either a vjp or the reason"):
        replace(op, vjp=lambda b, node, *given: given, no_vjp="because")


@pytest.mark.parametrize(("op", "case"), fixed_cases())
def test_infer_agrees_with_eval(op: OpDef, case: Case) -> None:
    results = run(op, draw(case), case)
    for k, (type, value) in enumerate(zip(infer(op, case), results, strict=True)):
        check_type(f"result {k}", type, value)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_infer_agrees_with_eval_for_random_sizes(op: OpDef) -> None:
    @settings(max_examples=25, derandomize=True, deadline=None)
    @given(random_cases(op), st.integers(0, 2**16))
    def check(case: Case, seed: int) -> None:
        results = run(op, draw(case, seed), case)
        for type, value in zip(infer(op, case), results, strict=True):
            check_type("result", type, value)
            assert all(np.isfinite(array).all() for array in arrays_of(value))

    check()


@pytest.mark.parametrize(("op", "case"), fixed_cases())
def test_eval_leaves_its_operands_alone_and_repeats_itself(op: OpDef, case: Case) -> None:
    operands, kept = draw(case), draw(case)
    first = run(op, map(frozen, operands), case)
    second = run(op, operands, case)
    for operand, copy in zip(operands, kept, strict=True):
        assert_same_bits(operand, copy)
    for one, other in zip(first, second, strict=True):
        assert_same_bits(one, other)


QUANTIZERS = {
    "quantize": "is not an f32 matrix",
    "ternarize": "is not an f32 matrix",
    "dequantize": "is not quantized",
}
"""Ops that have no float64 form, and what they say."""


@pytest.mark.parametrize(("op", "case"), fixed_cases())
def test_float64_operands_give_float64_results(op: OpDef, case: Case) -> None:
    if op.name in QUANTIZERS:
        with pytest.raises(GraphError, match=QUANTIZERS[op.name]):
            infer_types(op.name, (TensorType(DType.F64, (2, 3)),), {})
        return
    if "quantize(" in case.attrs.get("body", ""):
        return
    operands = tuple(map(promoted, draw(case)))
    for type, result in zip(infer(op, case), run(op, operands, case), strict=True):
        assert result.dtype == (F64 if type.dtype.is_float else type.dtype.numpy)


DISCONTINUOUS = {*QUANTIZERS, "sample", "fused"}
"""Tested on their own, and so is rope_table, which loses digits of large angles in f32."""

SMOOTH = [op for op in OPS.values() if op.name not in DISCONTINUOUS | {"rope_table"}]


@pytest.mark.parametrize(("op", "case"), fixed_cases(SMOOTH))
def test_float32_agrees_with_float64(op: OpDef, case: Case) -> None:
    """A result in f32 differs from the f64 one by rounding alone."""
    operands = draw(case)
    exact = run(op, map(promoted, operands), case)
    for value, wanted in zip(run(op, operands, case), exact, strict=True):
        assert_close(value.astype(F64), wanted.astype(F64), 3e-5, floor=1e-2)


def cut(value: HostValue, axis: int | None, low: float, high: float) -> HostValue:
    """What lies between two fractions of an axis."""
    if axis is None:
        return value
    begin, end = (round(value.shape[axis] * edge) for edge in (low, high))
    index = (slice(None),) * axis + (slice(begin, end),)
    if isinstance(value, Quantized):
        return Quantized(value.codes[index], value.scale[index])
    assert isinstance(value, np.ndarray)
    return value[index]


def laid_together(parts: list[HostValue], axis: int) -> HostValue:
    if isinstance(parts[0], Quantized):
        columns = zip(*(arrays_of(part) for part in parts), strict=True)
        codes, scale = (np.concatenate(column, axis) for column in columns)
        return Quantized(codes, scale)
    return np.concatenate(parts, axis)  # type: ignore[arg-type]


def partitions(sizes: list[int]) -> list[list[float]]:
    """Ways to cut axes of these sizes alike, each as the fractions at which to cut."""
    common = math.gcd(*sizes)
    ways = [[k / count for k in range(count + 1)] for count in (2, 3, 5) if common % count == 0]
    if len(set(sizes)) == 1 and sizes[0] > 1:
        ways.append([0.0, 1 / sizes[0], 1.0])
    return ways


def takes_codes(case: Case) -> bool:
    return any(item.type.dtype is DType.Q8 for item in case.operands)


@pytest.mark.parametrize(("op", "case"), fixed_cases(WITH_SPLIT))
def test_slices_of_the_inputs_give_the_slices_of_the_outputs(op: OpDef, case: Case) -> None:
    """In f64, so that the order of sums hardly shows; what has int8 codes is exact as it is."""
    assert op.split is not None
    given_ = draw(case)
    is_exact = op.name == "quantize" or takes_codes(case)
    operands = given_ if is_exact else tuple(map(promoted, given_))
    whole = run(op, operands, case)
    axes = op.split.inputs
    assert len(axes) == len(operands)
    assert len(op.split.outputs) == len(whole)
    assert any(axis is not None for axis in axes)
    sizes = [o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None]
    for edges in partitions(sizes):
        pieces = []
        for low, high in pairwise(edges):
            parts = (cut(o, a, low, high) for o, a in zip(operands, axes, strict=True))
            pieces.append(run(op, parts, case))
        for k, axis in enumerate(op.split.outputs):
            joined = laid_together([piece[k] for piece in pieces], axis)
            assert_close(joined, whole[k], 1e-13)


def test_an_operand_with_a_batch_axis_is_cut() -> None:
    """The splits the backend's sweeps are built on; a lost one would only cost speed, silently."""
    for name in ("quantize", "ternary_matmul", "rms_norm", "rope", "linear_cross_entropy", "mul"):
        split = OPS[name].split
        assert split is not None
        assert split.inputs[0] == 0


# Operands that do not fit


DTYPES = st.sampled_from(list(DType))
SHAPES = st.lists(st.integers(1, 3), max_size=4).map(tuple)
TYPES = st.builds(TensorType, DTYPES, SHAPES)


def some_value(type: TensorType) -> HostValue:
    """Something of the type: zeros for whole numbers, which are ids that every table has."""
    if type.dtype in (DType.I32, DType.U32):
        return np.zeros(type.shape, type.dtype.numpy)
    value = normal(np.random.default_rng(0), type)
    return np.abs(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_operands_are_refused_with_a_message_or_evaluated_as_inferred(op: OpDef) -> None:
    """One or two operands of a case get another type; no error but GraphError may come out."""

    @settings(max_examples=40, derandomize=True, deadline=None)
    @given(random_cases(op), st.data())
    def check(case: Case, data: st.DataObject) -> None:
        types = [item.type for item in case.operands]
        for _ in range(data.draw(st.integers(1, 2))):
            k = data.draw(st.integers(0, len(types) - 1))
            kind = data.draw(st.sampled_from(["any", "dtype", "shape"]))
            other = data.draw(TYPES)
            if kind == "dtype":
                other = types[k].with_dtype(other.dtype)
            elif kind == "shape":
                other = types[k].with_shape(other.shape)
            types[k] = other
        try:
            inferred = infer_types(op.name, tuple(types), case.attrs)
        except GraphError:
            return
        results = run(op, map(some_value, types), case)
        for type, value in zip(inferred, results, strict=True):
            check_type("result", type, value)

    check()


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_counts_and_attributes_are_checked(op: OpDef) -> None:
    case = op.cases.all()[1]
    types = tuple(item.type for item in case.operands)
    if not op.is_variadic:
        for wrong in (types[1:], (*types, types[0])):
            with pytest.raises(GraphError, match=rf"{op.name} takes {len(types)} operands \("):
                infer_types(op.name, wrong, case.attrs)
    with pytest.raises(GraphError, match=f"{op.name} takes the attributes .*; given: .*depth"):
        infer_types(op.name, types, {**case.attrs, "depth": 1})
    for key in case.attrs:
        rest = {k: v for k, v in case.attrs.items() if k != key}
        with pytest.raises(GraphError, match=f"{op.name} takes the attributes .*{key}"):
            infer_types(op.name, types, rest)
        wrong_type = 7 if op.attributes[key] is str else "x"
        message = f"{op.name}: attribute {key} is {wrong_type!r}, not of type"
        with pytest.raises(GraphError, match=message):
            infer_types(op.name, types, {**case.attrs, key: wrong_type})


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("rms_norm", "eps", 0.0, "eps 0.0 is not positive"),
        ("rms_norm", "eps", float("nan"), "eps nan is not positive"),
        ("scale", "factor", float("inf"), "factor inf is not finite"),
        ("clip_factor", "max_norm", -1.0, "max_norm -1.0 is negative"),
        ("adamw", "beta1", 1.0, "betas 1.0, 0.999 are not in"),
        ("adamw", "eps", 0.0, "eps 0.0 is not positive"),
        ("adamw", "weight_decay", -0.1, "weight_decay -0.1 is negative"),
        ("scatter_add_rows", "rows", 0, "0 rows hold nothing"),
        ("reshape", "row", (3, 3), r"does not have shape \[3, 3\]"),
        ("reshape", "row", (-2, -5), r"does not have shape \[-2, -5\]"),
    ],
)
def test_attributes_have_a_range(name: str, key: str, value: object, message: str) -> None:
    case = OPS[name].cases.all()[1]
    types = tuple(item.type for item in case.operands)
    with pytest.raises(GraphError, match=message):
        infer_types(name, types, {**case.attrs, key: value})  # type: ignore[dict-item]


def test_an_unknown_op_is_named() -> None:
    with pytest.raises(GraphError, match="there is no op named 'conv2d'"):
        infer_types("conv2d", (), {})
