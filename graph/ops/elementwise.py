"""Ops that treat every element alike, and the few that only rearrange or scale.

Operands have equal types: nothing broadcasts, so that a gradient never has to undo a broadcast.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..ir import Node, Value
from ..tensors import Array
from ..types import TensorType
from .draws import away_from_zero, operand
from .expect import expect, expect_float, expect_same, expect_scalar
from .record import Case, Cases, Cotangents, OpDef, by_rows

if TYPE_CHECKING:
    from ..build import GraphBuilder

_RANGES = ((1, 7), (1, 9))
_FIXED = ((1, 1), (5, 7), (64, 1408), (33, 2560))


def _unary_type(x: TensorType) -> TensorType:
    expect_float(x)
    return x


def _binary_type(a: TensorType, b: TensorType) -> TensorType:
    expect_float(a)
    expect_same(a, b)
    return a


def _unary_case(rows: int, columns: int) -> Case:
    return Case((operand("f32", rows, columns, draw=away_from_zero),))


def _binary_case(rows: int, columns: int) -> Case:
    shape = (rows, columns)
    return Case((operand("f32", *shape, draw=away_from_zero), operand("f32", *shape)))


# %c = add(%a, %b)


def _add(a: Array, b: Array) -> Array:
    return np.add(a, b)


def _add_vjp(b: GraphBuilder, node: Node, dc: Value) -> Cotangents:
    return dc, dc


# %c = sub(%a, %b)


def _sub(a: Array, b: Array) -> Array:
    return np.subtract(a, b)


def _sub_vjp(b: GraphBuilder, node: Node, dc: Value) -> Cotangents:
    return dc, b.op("scale", dc, factor=-1.0)


# %c = mul(%a, %b)


def _mul(a: Array, b: Array) -> Array:
    return np.multiply(a, b)


def _mul_vjp(b: GraphBuilder, node: Node, dc: Value) -> Cotangents:
    x, y = node.inputs
    return b.op("mul", dc, y), b.op("mul", dc, x)


# %y = scale(%x) {factor=0.5}


def _scale_type(x: TensorType, *, factor: float) -> TensorType:
    expect(math.isfinite(factor), f"factor {factor} is not finite")
    return _unary_type(x)


def _scale(x: Array, *, factor: float) -> Array:
    result: Array = np.multiply(x, x.dtype.type(factor))
    return result


def _scale_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return (b.op("scale", dy, **node.attributes),)


def _scale_case(rows: int, columns: int) -> Case:
    return Case((operand("f32", rows, columns),), {"factor": -1.75})


# %y = mul_scalar(%x, %s)        y = s x with a scalar tensor


def _mul_scalar_type(x: TensorType, s: TensorType) -> TensorType:
    expect_float(x)
    expect_scalar(s, x.dtype)
    return x


def _mul_scalar(x: Array, s: Array) -> Array:
    return np.multiply(x, s)


def _mul_scalar_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    x, s = node.inputs
    return b.op("mul_scalar", dy, s), b.op("dot", dy, x)


def _mul_scalar_case(rows: int, columns: int) -> Case:
    return Case((operand("f32", rows, columns), operand("f32")))


# %s = dot(%a, %b)               sum of all products, a scalar


def _dot_type(a: TensorType, b: TensorType) -> TensorType:
    return _binary_type(a, b).with_shape(())


def _dot(a: Array, b: Array) -> Array:
    total = np.dot(a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64))
    return np.asarray(total, dtype=a.dtype)


def _dot_vjp(b: GraphBuilder, node: Node, ds: Value) -> Cotangents:
    x, y = node.inputs
    return b.op("mul_scalar", y, ds), b.op("mul_scalar", x, ds)


# %y = squared_relu(%x)          max(x, 0)^2; its derivative is 2 max(x, 0)


def _squared_relu(x: Array) -> Array:
    positive: Array = np.maximum(x, 0)
    positive *= positive
    return positive


def _squared_relu_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    (x,) = node.inputs
    slope = b.op("scale", b.op("relu", x), factor=2.0)
    return (b.op("mul", dy, slope),)


# %y = relu(%x)                  max(x, 0)


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


# %y = silu(%x)                  x / (1 + exp(-x))


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result


def _silu_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return (b.op("mul", dy, b.op("silu_slope", *node.inputs)),)


# %y = silu_slope(%x)            derivative of silu: s (1 + x (1 - s)) with s the sigmoid


def _silu_slope(x: Array) -> Array:
    sigmoid = _sigmoid(x)
    result: Array = sigmoid * (1 + x * (1 - sigmoid))
    return result


# %y = full_like(%x) {value=1.0}    a tensor of x's type with one value everywhere


def _full_like_type(x: TensorType, *, value: float) -> TensorType:
    return _unary_type(x)


def _full_like(x: Array, *, value: float) -> Array:
    return np.full_like(x, value)


def _full_like_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return (b.op("full_like", dy, value=0.0),)


def _full_like_case(rows: int, columns: int) -> Case:
    return Case((operand("f32", rows, columns),), {"value": 0.25})


# %y = reshape(%x) {row=(4, 8)}  rows stay, each takes another shape


def _reshape_type(x: TensorType, *, row: tuple[int, ...]) -> TensorType:
    expect_float(x)
    expect(x.rank >= 1, f"{x} has no rows")
    result = x.with_shape((x.shape[0], *row))
    fits = all(size >= 0 for size in row) and result.size == x.size
    expect(fits, f"a row of {x} does not have shape {list(row)}")
    return result


def _reshape(x: Array, *, row: tuple[int, ...]) -> Array:
    return x.reshape(x.shape[0], *row)


def _reshape_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return (b.op("reshape", dy, row=node.inputs[0].type.shape[1:]),)


def _reshape_case(rows: int, heads: int, width: int) -> Case:
    return Case((operand("f32", rows, heads * width),), {"row": (heads, width)})


# %d = row_dot(%a, %b)           d[n, h] = sum over the last axis of a b


def _row_dot_type(a: TensorType, b: TensorType) -> TensorType:
    expect(a.rank >= 1, f"{a} has no axis to sum over")
    return _binary_type(a, b).with_shape(a.shape[:-1])


def _row_dot(a: Array, b: Array) -> Array:
    result: Array = np.vecdot(a, b)
    return result


def _row_dot_case(rows: int, heads: int, width: int) -> Case:
    return Case((operand("f32", rows, heads, width), operand("f32", rows, heads, width)))


_ELEMENTWISE = Cases(_unary_case, _RANGES, _FIXED)
_PAIRS = Cases(_binary_case, _RANGES, _FIXED)
_HEADS = ((1, 5), (1, 3), (1, 6))

OPS = (
    OpDef("add", _binary_type, _add, _PAIRS, _add_vjp, split=by_rows(0, 1, of=2)),
    OpDef("sub", _binary_type, _sub, _PAIRS, _sub_vjp, split=by_rows(0, 1, of=2)),
    OpDef("mul", _binary_type, _mul, _PAIRS, _mul_vjp, split=by_rows(0, 1, of=2)),
    OpDef(
        "scale",
        _scale_type,
        _scale,
        Cases(_scale_case, _RANGES, _FIXED),
        _scale_vjp,
        split=by_rows(0, of=1),
    ),
    OpDef(
        "mul_scalar",
        _mul_scalar_type,
        _mul_scalar,
        Cases(_mul_scalar_case, _RANGES, _FIXED),
        _mul_scalar_vjp,
        split=by_rows(0, of=2),
    ),
    OpDef("dot", _dot_type, _dot, _PAIRS, _dot_vjp),
    OpDef(
        "full_like",
        _full_like_type,
        _full_like,
        Cases(_full_like_case, _RANGES, _FIXED),
        _full_like_vjp,
        split=by_rows(0, of=1),
    ),
    OpDef(
        "squared_relu",
        _unary_type,
        _squared_relu,
        _ELEMENTWISE,
        _squared_relu_vjp,
        split=by_rows(0, of=1),
    ),
    OpDef(
        "relu",
        _unary_type,
        _relu,
        _ELEMENTWISE,
        no_vjp="only the gradient of squared_relu uses it",
        split=by_rows(0, of=1),
    ),
    OpDef("silu", _unary_type, _silu, _ELEMENTWISE, _silu_vjp, split=by_rows(0, of=1)),
    OpDef(
        "silu_slope",
        _unary_type,
        _silu_slope,
        _ELEMENTWISE,
        no_vjp="only the gradient of silu uses it",
        split=by_rows(0, of=1),
    ),
    OpDef(
        "reshape",
        _reshape_type,
        _reshape,
        Cases(_reshape_case, _HEADS, ((1, 1, 1), (3, 2, 5), (64, 20, 128))),
        _reshape_vjp,
        split=by_rows(0, of=1),
        view=True,
    ),
    OpDef(
        "row_dot",
        _row_dot_type,
        _row_dot,
        Cases(_row_dot_case, _HEADS, ((1, 1, 1), (3, 2, 5), (64, 20, 128))),
        no_vjp="only the gradient of attention uses it",
        split=by_rows(0, 1, of=2),
    ),
)
