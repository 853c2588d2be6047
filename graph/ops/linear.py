"""Matrix products: dense for LoRA and the head, ternary on int8 activations; and the quantizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..ir import Node, Value
from ..tensors import Array, Quantized, Ternary
from ..types import DType, TensorType
from .draws import operand
from .expect import expect, expect_float
from .record import Case, Cases, Cotangents, OpDef, by_rows

if TYPE_CHECKING:
    from ..build import GraphBuilder

# %q = quantize(%x)              int8 codes and a scale per row, by the row's absmax
#
# s = 127 / max(absmax, 1e-5), code = clamp(round(x s), -128, 127), ties to even: BitNet b1.58
# (Ma et al., 2024) as transformers computes it. A staircase, so the gradient is that of the
# identity (straight-through), and the surrogate is the identity.


def _quantize_type(x: TensorType) -> TensorType:
    expect(x.dtype is DType.F32 and x.rank == 2, f"{x} is not an f32 matrix")
    return x.with_dtype(DType.Q8)


def _quantize(x: Array) -> Quantized:
    absmax = np.maximum(np.max(x, axis=1, keepdims=True), -np.min(x, axis=1, keepdims=True))
    scale = np.float32(127) / np.maximum(absmax, np.float32(1e-5))
    codes = x * scale
    np.rint(codes, out=codes)
    np.clip(codes, -128, 127, out=codes)
    with np.errstate(invalid="ignore"):  # a NaN has no code; the step's loss reports it
        return Quantized(codes.astype(np.int8), scale)


def _quantize_case(rows: int, width: int) -> Case:
    return Case((operand("f32", rows, width),))


# %x = dequantize(%q)            what int8 codes stand for; the surrogate is the identity


def _dequantize_type(q: TensorType) -> TensorType:
    expect(q.dtype is DType.Q8 and q.rank == 2, f"{q} is not quantized")
    return q.with_dtype(DType.F32)


def _dequantize(q: Quantized) -> Array:
    return q.dense(np.float32)


def _dequantize_case(rows: int, width: int) -> Case:
    return Case((operand("q8", rows, width),))


# %t = ternarize(%w)             ternary codes of a float matrix, and one scale, its absmean
#
# a = max(mean |w|, 1e-5), code = clamp(round(w / a), -1, 1), ties to even, with w times the
# reciprocal of a: BitNet b1.58 (Ma et al., 2024) as transformers computes it online. A staircase,
# so the gradient is that of the identity (straight-through), and the surrogate is the identity.


def _ternarize_type(w: TensorType) -> TensorType:
    expect(w.dtype is DType.F32 and w.rank == 2, f"{w} is not an f32 matrix")
    return w.with_dtype(DType.T2)


def _ternarize(w: Array) -> Ternary:
    absmean = np.maximum(np.mean(np.abs(w), dtype=np.float32), np.float32(1e-5))
    codes = w * (np.float32(1) / absmean)
    np.rint(codes, out=codes)
    np.clip(codes, -1, 1, out=codes)
    with np.errstate(invalid="ignore"):  # a NaN has no code; the step's loss reports the scale
        return Ternary.pack(codes.astype(np.int8), absmean)


def _ternarize_case(out: int, width: int) -> Case:
    return Case((operand("f32", out, width),))


def _straight_through(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return (dy,)


def _identity(b: GraphBuilder, node: Node) -> tuple[Value, ...]:
    return node.inputs


# %y = ternary_matmul(%x, %w)    y = x w^T with w ternary [out, in], or what it was made of
#
# On int8 codes the sum of products is exact, whatever the order; then it is divided by the row's
# scale and multiplied by the tensor's, as bitnet.cpp does. A float w is what the surrogate of
# ternarize leaves.


def _expect_weight(w: TensorType, x: TensorType) -> None:
    plain = DType.F32 if x.dtype is DType.Q8 else x.dtype
    expect(w.dtype in (DType.T2, plain) and w.rank == 2, f"{w} is not a ternary matrix")


def _ternary_matmul_type(x: TensorType, w: TensorType) -> TensorType:
    _expect_weight(w, x)
    expect(x.rank == 2 and x.shape[1] == w.shape[1], f"{x} does not fit the rows of {w}")
    if x.dtype is DType.Q8:
        return TensorType(DType.F32, (x.shape[0], w.shape[0]))
    expect_float(x)
    return x.with_shape((x.shape[0], w.shape[0]))


def _ternary_matmul(x: Array | Quantized, w: Ternary | Array) -> Array:
    if not isinstance(w, Ternary):
        product: Array = (x.dense(w.dtype) if isinstance(x, Quantized) else x) @ w.T
        return product
    if isinstance(x, Quantized):
        dtype = x.scale.dtype
        y: Array = x.codes.astype(dtype) @ w.dense_transposed(dtype)
        y /= x.scale
    else:
        dtype = x.dtype
        y = x @ w.dense_transposed(dtype)
    y *= dtype.type(w.scale)
    return y


def _ternary_matmul_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    x, w = node.inputs
    dx = b.op("ternary_matmul_t", dy, w)
    if x.type.dtype is DType.Q8:
        x = b.op("dequantize", x)
    return dx, b.op("contract_rows", dy, x)


def _ternary_matmul_case(rows: int, width: int, out: int) -> Case:
    return Case((operand("q8", rows, width), operand("t2", out, width)))


# %dx = ternary_matmul_t(%dy, %w)    dx = dy w


def _ternary_matmul_t_type(dy: TensorType, w: TensorType) -> TensorType:
    _expect_weight(w, dy)
    expect_float(dy, rank=2)
    expect(dy.shape[1] == w.shape[0], f"{dy} does not fit the columns of {w}")
    return dy.with_shape((dy.shape[0], w.shape[1]))


def _ternary_matmul_t(dy: Array, w: Ternary | Array) -> Array:
    if not isinstance(w, Ternary):
        product: Array = dy @ w
        return product
    dx: Array = dy @ w.dense(dy.dtype)
    dx *= dy.dtype.type(w.scale)
    return dx


def _ternary_matmul_t_vjp(b: GraphBuilder, node: Node, dx: Value) -> Cotangents:
    dy, w = node.inputs
    return b.op("ternary_matmul", dx, w), b.op("contract_rows", dy, dx)


def _ternary_matmul_t_case(rows: int, width: int, out: int) -> Case:
    return Case((operand("f32", rows, out), operand("t2", out, width)))


# %y = matmul(%a, %b) {transpose_b=true}    y = a b or a b^T; b may be f16, taken as a's type


def _matmul_type(a: TensorType, b: TensorType, *, transpose_b: bool) -> TensorType:
    expect_float(a, rank=2)
    expect(b.dtype in (a.dtype, DType.F16) and b.rank == 2, f"{b} is not a matrix of {a.dtype}")
    inner, outer = (1, 0) if transpose_b else (0, 1)
    expect(a.shape[1] == b.shape[inner], f"{a} and {b} do not fit together")
    return a.with_shape((a.shape[0], b.shape[outer]))


def _matmul(a: Array, b: Array, *, transpose_b: bool) -> Array:
    b = b.astype(a.dtype, copy=False)
    result: Array = a @ (b.T if transpose_b else b)
    return result


def _matmul_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    x, w = node.inputs
    transposed = bool(node.attributes["transpose_b"])
    dx = b.op("matmul", dy, w, transpose_b=not transposed)
    if w.type.dtype is not x.type.dtype:
        return dx, None
    return dx, b.op("contract_rows", dy, x) if transposed else b.op("contract_rows", x, dy)


def _matmul_case(rows: int, width: int, out: int, transpose_b: int) -> Case:
    shape = (out, width) if transpose_b else (width, out)
    operands = (operand("f32", rows, width), operand("f32", *shape))
    return Case(operands, {"transpose_b": bool(transpose_b)})


# %y = contract_rows(%a, %b)     y = a^T b: the gradient of a weight


def _contract_rows_type(a: TensorType, b: TensorType) -> TensorType:
    expect_float(a, rank=2)
    expect(b.dtype is a.dtype and b.rank == 2, f"{b} is not a matrix of {a.dtype}")
    expect(a.shape[0] == b.shape[0], f"{a} and {b} do not have the same rows")
    return a.with_shape((a.shape[1], b.shape[1]))


def _contract_rows(a: Array, b: Array) -> Array:
    result: Array = a.T @ b
    return result


def _contract_rows_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    x, y = node.inputs
    return b.op("matmul", y, dy, transpose_b=True), b.op("matmul", x, dy, transpose_b=False)


def _contract_rows_case(rows: int, left: int, right: int) -> Case:
    return Case((operand("f32", rows, left), operand("f32", rows, right)))


_SIZES = ((1, 5), (1, 9), (1, 8))

OPS = (
    OpDef(
        "quantize",
        _quantize_type,
        _quantize,
        Cases(_quantize_case, _SIZES[:2], ((1, 1), (5, 7), (64, 512), (33, 6912))),
        _straight_through,
        surrogate=_identity,
        split=by_rows(0, of=1),
    ),
    OpDef(
        "dequantize",
        _dequantize_type,
        _dequantize,
        Cases(_dequantize_case, _SIZES[:2], ((1, 1), (5, 7), (64, 512))),
        _straight_through,
        surrogate=_identity,
        split=by_rows(0, of=1),
    ),
    OpDef(
        "ternarize",
        _ternarize_type,
        _ternarize,
        Cases(_ternarize_case, _SIZES[:2], ((1, 1), (5, 7), (96, 512), (256, 768))),
        _straight_through,
        surrogate=_identity,
    ),
    OpDef(
        "ternary_matmul",
        _ternary_matmul_type,
        _ternary_matmul,
        Cases(
            _ternary_matmul_case, _SIZES, ((1, 1, 1), (3, 130, 5), (1, 2560, 640), (40, 512, 96))
        ),
        _ternary_matmul_vjp,
        split=by_rows(0, of=2),
    ),
    OpDef(
        "ternary_matmul_t",
        _ternary_matmul_t_type,
        _ternary_matmul_t,
        Cases(
            _ternary_matmul_t_case, _SIZES, ((1, 1, 1), (3, 130, 5), (1, 2560, 640), (40, 512, 96))
        ),
        _ternary_matmul_t_vjp,
        split=by_rows(0, of=2),
    ),
    OpDef(
        "matmul",
        _matmul_type,
        _matmul,
        Cases(
            _matmul_case,
            (*_SIZES, (0, 1)),
            ((1, 1, 1, 0), (3, 5, 7, 1), (65, 16, 512, 1), (64, 512, 16, 0), (1, 512, 4096, 1)),
        ),
        _matmul_vjp,
        split=by_rows(0, of=2),
    ),
    OpDef(
        "contract_rows",
        _contract_rows_type,
        _contract_rows,
        Cases(_contract_rows_case, _SIZES, ((1, 1, 1), (3, 5, 7), (100, 16, 512), (96, 1408, 16))),
        _contract_rows_vjp,
    ),
)
