"""Root-mean-square normalization over the last axis.

y = w x r with r = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich, 2019). With g = w dy its gradient
is dx = r (g - x r^2 mean(g x)) and dw = sum over rows of dy x r.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..ir import Node, Value
from ..tensors import Array
from ..types import TensorType
from .draws import operand
from .expect import expect, expect_float, expect_same
from .record import Case, Cases, Cotangents, OpDef, by_rows

if TYPE_CHECKING:
    from ..build import GraphBuilder

_RANGES = ((1, 6), (1, 9))
_FIXED = ((1, 1), (5, 7), (64, 512), (33, 6912))


def _inverse_rms(x: Array, eps: float) -> Array:
    mean_square = np.vecdot(x, x)[:, None] / x.dtype.type(x.shape[1])
    result: Array = 1 / np.sqrt(mean_square + x.dtype.type(eps))
    return result


# %y = rms_norm(%x, %weight) {eps=1e-05}


def _rms_norm_type(x: TensorType, weight: TensorType, *, eps: float) -> TensorType:
    expect_float(x, rank=2)
    expect(weight == x.with_shape(x.shape[1:]), f"weight {weight} does not fit rows of {x}")
    expect(eps > 0, f"eps {eps} is not positive")
    return x


def _rms_norm(x: Array, weight: Array, *, eps: float) -> Array:
    return x * _inverse_rms(x, eps) * weight


def _rms_norm_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    x, weight = node.inputs
    dx = b.op("rms_norm_grad", dy, x, weight, **node.attributes)
    dweight = b.op("rms_norm_weight_grad", dy, x, **node.attributes)
    return dx, dweight


def _rms_norm_case(rows: int, width: int) -> Case:
    return Case((operand("f32", rows, width), operand("f32", width)), {"eps": 1e-5})


# %dx = rms_norm_grad(%dy, %x, %weight) {eps=1e-05}


def _rms_norm_grad_type(
    dy: TensorType, x: TensorType, weight: TensorType, *, eps: float
) -> TensorType:
    expect_same(x, dy)
    return _rms_norm_type(x, weight, eps=eps)


def _rms_norm_grad(dy: Array, x: Array, weight: Array, *, eps: float) -> Array:
    r = _inverse_rms(x, eps)
    g = dy * weight
    projection = np.vecdot(g, x)[:, None] / x.dtype.type(x.shape[1])
    g -= x * (r * r * projection)
    g *= r
    return g


def _rms_norm_grad_case(rows: int, width: int) -> Case:
    rows_type = operand("f32", rows, width)
    return Case((rows_type, rows_type, operand("f32", width)), {"eps": 1e-5})


# %dweight = rms_norm_weight_grad(%dy, %x) {eps=1e-05}


def _weight_grad_type(dy: TensorType, x: TensorType, *, eps: float) -> TensorType:
    expect_float(x, rank=2)
    expect_same(x, dy)
    return x.with_shape(x.shape[1:])


def _weight_grad(dy: Array, x: Array, *, eps: float) -> Array:
    result: Array = np.sum(dy * x * _inverse_rms(x, eps), axis=0)
    return result


def _weight_grad_case(rows: int, width: int) -> Case:
    return Case((operand("f32", rows, width), operand("f32", rows, width)), {"eps": 1e-5})


_FIRST_ORDER = "second derivatives are not needed"

OPS = (
    OpDef(
        "rms_norm",
        _rms_norm_type,
        _rms_norm,
        Cases(_rms_norm_case, _RANGES, _FIXED),
        _rms_norm_vjp,
        split=by_rows(0, of=2),
    ),
    OpDef(
        "rms_norm_grad",
        _rms_norm_grad_type,
        _rms_norm_grad,
        Cases(_rms_norm_grad_case, _RANGES, _FIXED),
        no_vjp=_FIRST_ORDER,
        split=by_rows(0, 1, of=3),
    ),
    OpDef(
        "rms_norm_weight_grad",
        _weight_grad_type,
        _weight_grad,
        Cases(_weight_grad_case, _RANGES, _FIXED),
        no_vjp=_FIRST_ORDER,
    ),
)
