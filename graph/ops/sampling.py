"""Choosing the next token on the backend, with the same random bits everywhere."""

from __future__ import annotations

import numpy as np

from ..random import philox, unit_interval
from ..tensors import Array
from ..types import DType, TensorType
from .draws import integers, operand, uniform
from .expect import expect, expect_float, expect_ids, expect_scalar
from .record import Case, Cases, OpDef, by_rows

# %ids = sample(%logits, %temperature, %top_k, %top_p, %reach, %seed, %positions)
#
# Temperature 0 takes the largest logit, the lowest id among equals. Otherwise: keep the top_k
# largest (0: all), then the smallest set of the most probable that holds top_p of what is left, of
# these the logits that are at most `reach` below the largest (negative: all), and take the largest
# of z / temperature + Gumbel noise, which draws from the softmax of those kept. The noise of a
# token is -log(-log(u)), u from philox at (id, position) under the seed.
#
# Min-p is a reach of -temperature log(min_p): it leaves a backend only a subtraction, which gives
# the same bits everywhere.


def _sample_type(
    logits: TensorType,
    temperature: TensorType,
    top_k: TensorType,
    top_p: TensorType,
    reach: TensorType,
    seed: TensorType,
    positions: TensorType,
) -> TensorType:
    expect_float(logits, rank=2)
    expect_scalar(temperature, logits.dtype)
    expect_scalar(top_k, DType.I32)
    expect_scalar(top_p, logits.dtype)
    expect_scalar(reach, logits.dtype)
    expect_scalar(seed, DType.U32)
    expect_ids(positions, logits.shape[0])
    return TensorType(DType.I32, (logits.shape[0],))


def _kept(z: Array, top_k: int, top_p: float) -> Array:
    """Ids that pass both filters, most probable first; ties go to the lower id."""
    order = np.argsort(-z, kind="stable")
    if top_k > 0:
        order = order[:top_k]
    p = np.exp(z[order] - z[order[0]])
    before = np.cumsum(p) - p
    kept: Array = order[before < top_p * p.sum()] if top_p < 1 else order
    return kept


def _sample(
    logits: Array,
    temperature: Array,
    top_k: Array,
    top_p: Array,
    reach: Array,
    seed: Array,
    positions: Array,
) -> Array:
    if temperature <= 0:
        greedy: Array = np.argmax(logits, axis=1).astype(np.int32)
        return greedy
    chosen = np.empty(logits.shape[0], dtype=np.int32)
    for row, position in enumerate(positions):
        z = logits[row] / temperature
        ids = _kept(z, int(top_k), float(top_p))
        if reach >= 0:
            ids = ids[~(logits[row].max() - logits[row][ids] > reach)]
        ids = ids if ids.size else np.argmax(z, keepdims=True)
        u = unit_interval(philox((ids, int(position), 0, 0), int(seed))[0])
        chosen[row] = ids[np.argmax(z[ids] - np.log(-np.log(u)))]
    return chosen


def _sample_case(rows: int, vocabulary: int, tenths: int, top_k: int) -> Case:
    operands = (
        operand("f32", rows, vocabulary),
        operand("f32", draw=uniform(tenths / 10, tenths / 10 + 1e-6)),
        operand("i32", draw=integers(top_k, top_k + 1)),
        operand("f32", draw=uniform(0.5, 1.0)),
        operand("f32", draw=uniform(-1.0, 4.0)),
        operand("u32", draw=integers(0, 2**31)),
        operand("i32", rows, draw=integers(0, 4096)),
    )
    return Case(operands)


# %y = penalize(%logits, %seen, %penalty, %inverse)    logits of tokens that were there, lowered
#
# Where seen is not 0, a positive logit is multiplied by `inverse`, another by `penalty`. The
# repetition penalty of CTRL (Keskar et al., 2019), in products only: they are the same everywhere.


def _penalize_type(
    logits: TensorType, seen: TensorType, penalty: TensorType, inverse: TensorType
) -> TensorType:
    expect_float(logits, rank=2)
    wanted = logits.with_shape(logits.shape[1:])
    expect(seen == wanted, f"{seen} is not {wanted}, a flag for each token")
    expect_scalar(penalty, logits.dtype)
    expect_scalar(inverse, logits.dtype)
    return logits


def _penalize(logits: Array, seen: Array, penalty: Array, inverse: Array) -> Array:
    factors = np.where(logits > 0, inverse, penalty)
    return np.where(seen != 0, logits * factors, logits)


def _penalize_case(rows: int, vocabulary: int) -> Case:
    flags = operand("f32", vocabulary, draw=integers(0, 2))
    scalars = operand("f32", draw=uniform(1.0, 2.0)), operand("f32", draw=uniform(0.5, 1.0))
    return Case((operand("f32", rows, vocabulary), flags, *scalars))


# %next, %stopped1 = until_stop(%ids, %stops, %stopped)    ids until one is a stop, then -1
#
# A row whose `stopped` is not 0 gives -1. A row stops behind an id that is among the stops.


def _until_stop_type(
    ids: TensorType, stops: TensorType, stopped: TensorType
) -> tuple[TensorType, TensorType]:
    expect(ids.rank == 1 and stops.rank == 1, f"{ids} or {stops} is not a vector")
    expect_ids(ids, *ids.shape)
    expect_ids(stops, *stops.shape)
    expect_ids(stopped, *ids.shape)
    return ids, stopped


def _until_stop(ids: Array, stops: Array, stopped: Array) -> tuple[Array, Array]:
    following = np.where(stopped != 0, np.int32(-1), ids)
    return following, ((stopped != 0) | np.isin(ids, stops)).astype(np.int32)


def _until_stop_case(rows: int, stops: int) -> Case:
    few = integers(0, 4)
    flags = operand("i32", rows, draw=integers(0, 2))
    return Case((operand("i32", rows, draw=few), operand("i32", stops, draw=few), flags))


OPS = (
    OpDef(
        "sample",
        _sample_type,
        _sample,
        Cases(
            _sample_case,
            ((1, 4), (1, 20), (0, 20), (0, 5)),
            ((1, 1, 0, 0), (3, 50, 0, 0), (2, 4096, 8, 40), (4, 300, 12, 0)),
        ),
        no_vjp="a choice is not differentiable",
    ),
    OpDef(
        "penalize",
        _penalize_type,
        _penalize,
        Cases(_penalize_case, ((1, 4), (1, 20)), ((1, 1), (3, 50), (1, 4096))),
        no_vjp="it serves generation alone",
        split=by_rows(0, of=4),
    ),
    OpDef(
        "until_stop",
        _until_stop_type,
        _until_stop,
        Cases(_until_stop_case, ((1, 6), (1, 4)), ((1, 1), (1, 8), (70, 2))),
        no_vjp="a choice is not differentiable",
    ),
)
