"""Gradient clipping, AdamW and SGD. Gradients of any finite size keep everything finite.

A gradient that is not finite makes the norm NaN. `guard` passes that on, to this step and to all
that follow: the clipping factor is NaN then, and the optimizers leave everything as it was. So
params stay as they were before the first bad step, however many steps were under way.
"""

from __future__ import annotations

import math

import numpy as np

from ..tensors import Array
from ..types import DType, TensorType
from .draws import integers, operand, uniform
from .expect import expect, expect_float, expect_same, expect_scalar
from .record import Case, Cases, OpDef

_OPTIMIZER = "the optimizer is not differentiated"

# %n = global_norm(%g0, %g1, ...)    square root of the sum of all squares
#
# Summed in f64, where the squares of f32 numbers neither overflow nor vanish. NaN if a gradient is
# not finite.


def _global_norm_type(*gradients: TensorType) -> TensorType:
    expect(len(gradients) > 0, "there is no gradient")
    for gradient in gradients:
        expect_float(gradient)
    return TensorType(gradients[0].dtype, ())


def _global_norm(*gradients: Array) -> Array:
    flat = (g.reshape(-1).astype(np.float64) for g in gradients)
    total = sum(float(np.dot(g, g)) for g in flat)
    limit = float(np.finfo(gradients[0].dtype).max)
    norm = min(math.sqrt(total), limit) if math.isfinite(total) else math.nan
    return np.asarray(norm, dtype=gradients[0].dtype)


def _global_norm_case(rows: int, columns: int) -> Case:
    return Case((operand("f32", rows, columns), operand("f32", columns), operand("f32", 1, rows)))


# %g, %sound1 = guard(%norm, %loss, %sound)    the norm, or NaN from the first bad step on
#
# `sound` is 1 at first, and becomes 0 for good with a loss or a norm that is not finite.


def _guard_type(
    norm: TensorType, loss: TensorType, sound: TensorType
) -> tuple[TensorType, TensorType]:
    expect_float(norm)
    expect_scalar(norm, norm.dtype)
    expect_scalar(loss, norm.dtype)
    expect_scalar(sound, DType.I32)
    return norm, sound


def _guard(norm: Array, loss: Array, sound: Array) -> tuple[Array, Array]:
    holds = bool(sound == 1 and np.isfinite(norm) and np.isfinite(loss))
    guarded = norm.copy() if holds else np.full_like(norm, np.nan)
    return guarded, np.asarray(int(holds), np.int32)


def _guard_case(norm: int, loss: int) -> Case:
    scalars = (operand("f32", draw=uniform(x, x + 0.5)) for x in (norm, loss))
    return Case((*scalars, operand("i32", draw=integers(1, 2))))


# %c = clip_factor(%norm) {max_norm=1.0}    min(1, max_norm / (norm + 1e-6)), as PyTorch clips
#
# A max_norm of 0 does not clip: the factor is 1, or NaN if the norm is.


def _clip_factor_type(norm: TensorType, *, max_norm: float) -> TensorType:
    expect_scalar(norm, norm.dtype)
    expect_float(norm)
    expect(max_norm >= 0, f"max_norm {max_norm} is negative")
    return norm


def _clip_factor(norm: Array, *, max_norm: float) -> Array:
    kind = norm.dtype.type
    if np.isnan(norm):
        return norm.copy()
    limit = kind(max_norm) / (norm + kind(1e-6)) if max_norm > 0 else kind(1)
    return np.asarray(np.minimum(kind(1), limit))


def _clip_factor_case(tenths: int, clips: int) -> Case:
    norm = operand("f32", draw=uniform(tenths / 10, tenths / 10 + 0.1))
    return Case((norm,), {"max_norm": float(clips)})


# %p1, %m1, %v1 = adamw(%p, %g, %m, %v, %clip, %lr, %step) {beta1=…, beta2=…, eps=…, weight_decay=…}
#
# Loshchilov and Hutter (2019): with g scaled by `clip`, m1 = beta1 m + (1 - beta1) g,
# v1 = beta2 v + (1 - beta2) g^2, p1 = p (1 - lr wd) - lr mhat / (sqrt(vhat) + eps), where mhat and
# vhat are divided by 1 - beta^step. The step counts from 1. v1 is held below the largest float, so
# that a gradient of 1e30 cannot freeze a parameter for good. A NaN as `clip` changes nothing.


def _adamw_type(
    p: TensorType,
    g: TensorType,
    m: TensorType,
    v: TensorType,
    clip: TensorType,
    lr: TensorType,
    step: TensorType,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> tuple[TensorType, TensorType, TensorType]:
    expect_float(p)
    expect_same(p, g, m, v)
    expect_scalar(clip, p.dtype)
    expect_scalar(lr, p.dtype)
    expect_scalar(step, DType.I32)
    expect(0 <= beta1 < 1 and 0 <= beta2 < 1, f"betas {beta1}, {beta2} are not in [0, 1)")
    expect(eps > 0, f"eps {eps} is not positive")
    expect(weight_decay >= 0, f"weight_decay {weight_decay} is negative")
    return p, m, v


def _adamw(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    clip: Array,
    lr: Array,
    step: Array,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> tuple[Array, Array, Array]:
    if np.isnan(clip):
        return p.copy(), m.copy(), v.copy()
    kind = p.dtype.type
    count = max(int(step), 1)
    bias1, bias2 = 1 - beta1**count, 1 - beta2**count
    clipped = g * clip
    m1 = kind(beta1) * m + kind(1 - beta1) * clipped
    with np.errstate(over="ignore"):
        v1 = kind(beta2) * v + kind(1 - beta2) * clipped * clipped
        v1 = np.minimum(v1, np.finfo(p.dtype).max)
        update = (m1 / kind(bias1)) / (np.sqrt(v1) / kind(np.sqrt(bias2)) + kind(eps))
        return p * (1 - lr * kind(weight_decay)) - lr * update, m1, v1


def _adamw_case(rows: int, columns: int, step: int) -> Case:
    shape = (rows, columns)
    operands = (
        operand("f32", *shape),
        operand("f32", *shape),
        operand("f32", *shape),
        operand("f32", *shape, draw=uniform(0.0, 2.0)),
        operand("f32", draw=uniform(0.1, 1.0)),
        operand("f32", draw=uniform(1e-4, 1e-2)),
        operand("i32", draw=integers(step, step + 1)),
    )
    attrs = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
    return Case(operands, dict(attrs))


# %p1, %m1 = sgd(%p, %g, %m, %clip, %lr) {momentum=0.9, weight_decay=0.0}
#
# As torch.optim.SGD: with g scaled by `clip` and weight_decay p added, m1 = momentum m + g and
# p1 = p - lr m1. m1 is held within the floats. A NaN as `clip` changes nothing.


def _sgd_type(
    p: TensorType,
    g: TensorType,
    m: TensorType,
    clip: TensorType,
    lr: TensorType,
    *,
    momentum: float,
    weight_decay: float,
) -> tuple[TensorType, TensorType]:
    expect_float(p)
    expect_same(p, g, m)
    expect_scalar(clip, p.dtype)
    expect_scalar(lr, p.dtype)
    expect(0 <= momentum < 1, f"momentum {momentum} is not in [0, 1)")
    expect(weight_decay >= 0, f"weight_decay {weight_decay} is negative")
    return p, m


def _sgd(
    p: Array, g: Array, m: Array, clip: Array, lr: Array, *, momentum: float, weight_decay: float
) -> tuple[Array, Array]:
    if np.isnan(clip):
        return p.copy(), m.copy()
    kind, limit = p.dtype.type, np.finfo(p.dtype).max
    with np.errstate(over="ignore"):
        m1 = kind(momentum) * m + (g * clip + kind(weight_decay) * p)
        m1 = np.clip(m1, -limit, limit)
        return p - lr * m1, m1


def _sgd_case(rows: int, columns: int) -> Case:
    shape = (rows, columns)
    scalars = (
        operand("f32", draw=uniform(0.1, 1.0)),
        operand("f32", draw=uniform(1e-4, 1e-2)),
    )
    tensors = (operand("f32", *shape), operand("f32", *shape), operand("f32", *shape))
    return Case((*tensors, *scalars), {"momentum": 0.9, "weight_decay": 0.01})


OPS = (
    OpDef(
        "global_norm",
        _global_norm_type,
        _global_norm,
        Cases(_global_norm_case, ((1, 6), (1, 6)), ((1, 1), (5, 7), (16, 2560))),
        no_vjp=_OPTIMIZER,
    ),
    OpDef(
        "guard",
        _guard_type,
        _guard,
        Cases(_guard_case, ((0, 40), (-9, 9)), ((0, 1), (7, -3), (4000, 0))),
        no_vjp=_OPTIMIZER,
    ),
    OpDef(
        "clip_factor",
        _clip_factor_type,
        _clip_factor,
        Cases(_clip_factor_case, ((0, 40), (0, 1)), ((0, 1), (5, 1), (40, 1), (40, 0))),
        no_vjp=_OPTIMIZER,
    ),
    OpDef(
        "adamw",
        _adamw_type,
        _adamw,
        Cases(_adamw_case, ((1, 5), (1, 5), (1, 1000)), ((1, 1, 1), (5, 7, 3), (16, 2560, 100))),
        no_vjp=_OPTIMIZER,
    ),
    OpDef(
        "sgd",
        _sgd_type,
        _sgd,
        Cases(_sgd_case, ((1, 6), (1, 6)), ((1, 1), (5, 7), (16, 2560))),
        no_vjp=_OPTIMIZER,
    ),
)
