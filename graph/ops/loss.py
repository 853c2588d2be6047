"""The language-model loss, taken at labelled rows only and without ever holding all logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..ir import Node, Value
from ..tensors import Array
from ..types import DType, TensorType
from .draws import integers, normal, operand, scaled, uniform
from .expect import expect, expect_float, expect_ids, expect_same
from .record import Case, Cases, Cotangents, OpDef, by_rows

if TYPE_CHECKING:
    from ..build import GraphBuilder

_CHUNK = 8192
"""Vocabulary rows whose logits are held at a time."""

# %nll, %lse = linear_cross_entropy(%h, %table, %labels)
#
# With logits z = h table^T: lse = log(sum(exp(z))) and nll = lse - z[label]. Rows whose label is
# negative are skipped; both their results are 0.


def _loss_type(
    h: TensorType, table: TensorType, labels: TensorType
) -> tuple[TensorType, TensorType]:
    expect_float(h, rank=2)
    expect(table.dtype in (h.dtype, DType.F16) and table.rank == 2, f"{table} is not a matrix")
    expect(h.shape[1] == table.shape[1], f"{h} does not fit the rows of {table}")
    expect_ids(labels, h.shape[0])
    row = h.with_shape(h.shape[:1])
    return row, row


def _chunks(table: Array, dtype: np.dtype[np.generic]) -> Iterator[tuple[int, Array]]:
    """Slices of the table with the id of their first row."""
    for begin in range(0, table.shape[0], _CHUNK):
        yield begin, table[begin : begin + _CHUNK].astype(dtype, copy=False)


def _label_columns(labels: Array, begin: int, count: int) -> tuple[Array, Array]:
    """Rows whose label falls into a chunk, and its column there."""
    rows = np.flatnonzero((labels >= begin) & (labels < begin + count))
    return rows, labels[rows] - begin


def _loss(h: Array, table: Array, labels: Array) -> tuple[Array, Array]:
    rows = np.flatnonzero(labels >= 0)
    kept, targets = h[rows], labels[rows]
    top = np.full(rows.size, -np.inf, dtype=h.dtype)
    total, picked = np.zeros_like(top), np.zeros_like(top)
    for begin, chunk in _chunks(table, h.dtype):
        z = kept @ chunk.T
        hits, columns = _label_columns(targets, begin, chunk.shape[0])
        picked[hits] = z[hits, columns]
        higher = np.maximum(top, z.max(axis=1))
        total *= np.exp(top - higher)
        z -= higher[:, None]
        total += np.exp(z, out=z).sum(axis=1)
        top = higher
    nll, lse = np.zeros(h.shape[0], dtype=h.dtype), np.zeros(h.shape[0], dtype=h.dtype)
    lse[rows] = np.log(total) + top
    nll[rows] = lse[rows] - picked
    return nll, lse


def _loss_vjp(b: GraphBuilder, node: Node, dnll: Value | None, dlse: Value | None) -> Cotangents:
    h, table, labels = node.inputs
    _, lse = node.outputs
    if dnll is None:
        assert dlse is not None
        spread, peak = dlse, b.op("scale", dlse, factor=0.0)
    else:
        spread, peak = (dnll if dlse is None else b.op("add", dnll, dlse)), dnll
    operands = (spread, peak, h, table, labels, lse)
    dh = b.op("linear_cross_entropy_grad", *operands)
    if table.type.dtype is not h.type.dtype:
        return dh, None, None
    return dh, b.op("linear_cross_entropy_table_grad", *operands), None


def _loss_case(rows: int, width: int, vocabulary: int, trained: int) -> Case:
    operands = (
        operand("f32", rows, width),
        operand("f32" if trained else "f16", vocabulary, width),
        operand("i32", rows, draw=integers(-1, vocabulary)),
    )
    return Case(operands)


# %dh = linear_cross_entropy_grad(%spread, %peak, %h, %table, %labels, %lse)
#
# dh = (spread softmax(z) - peak onehot(label)) table, with the softmax as exp(z - lse).


def _loss_grad_type(
    spread: TensorType,
    peak: TensorType,
    h: TensorType,
    table: TensorType,
    labels: TensorType,
    lse: TensorType,
) -> TensorType:
    row, _ = _loss_type(h, table, labels)
    expect_same(row, spread, peak, lse)
    return h


def _gradient_chunks(
    spread: Array, peak: Array, h: Array, table: Array, labels: Array, lse: Array
) -> Iterator[tuple[int, Array, Array]]:
    """Gradients of the logits of labelled rows, with the rows of the table that they are of."""
    rows = np.flatnonzero(labels >= 0)
    kept, targets = h[rows], labels[rows]
    for begin, chunk in _chunks(table, h.dtype):
        z = kept @ chunk.T
        z -= lse[rows, None]
        np.exp(z, out=z)
        z *= spread[rows, None]
        hits, columns = _label_columns(targets, begin, chunk.shape[0])
        z[hits, columns] -= peak[rows[hits]]
        yield begin, chunk, z


def _loss_grad(
    spread: Array, peak: Array, h: Array, table: Array, labels: Array, lse: Array
) -> Array:
    rows = np.flatnonzero(labels >= 0)
    dkept = np.zeros_like(h[rows])
    for _, chunk, dz in _gradient_chunks(spread, peak, h, table, labels, lse):
        dkept += dz @ chunk
    dh = np.zeros_like(h)
    dh[rows] = dkept
    return dh


def _loss_grad_case(rows: int, width: int, vocabulary: int) -> Case:
    """Logits of variance 1 and about the lse that they have, so that probabilities are some."""
    row = operand("f32", rows, draw=normal)
    h = operand("f32", rows, width, draw=scaled(1 / math.sqrt(width)))
    _, *others = _loss_case(rows, width, vocabulary, 0).operands
    lse = math.log(vocabulary) + 0.5
    return Case((row, row, h, *others, operand("f32", rows, draw=uniform(lse, lse + 0.1))))


# %dtable = linear_cross_entropy_table_grad(%spread, %peak, %h, %table, %labels, %lse)
#
# dtable = (spread softmax(z) - peak onehot(label))^T h, over the rows that have a label.


def _table_grad_type(
    spread: TensorType,
    peak: TensorType,
    h: TensorType,
    table: TensorType,
    labels: TensorType,
    lse: TensorType,
) -> TensorType:
    _loss_grad_type(spread, peak, h, table, labels, lse)
    expect(table.dtype is h.dtype, f"{table} is not a matrix of {h.dtype}")
    return table


def _table_grad(
    spread: Array, peak: Array, h: Array, table: Array, labels: Array, lse: Array
) -> Array:
    kept = h[labels >= 0]
    dtable = np.empty_like(table)
    for begin, chunk, dz in _gradient_chunks(spread, peak, h, table, labels, lse):
        dtable[begin : begin + chunk.shape[0]] = dz.T @ kept
    return dtable


def _table_grad_case(rows: int, width: int, vocabulary: int) -> Case:
    spread, peak, h, _, labels, lse = _loss_grad_case(rows, width, vocabulary).operands
    return Case((spread, peak, h, operand("f32", vocabulary, width), labels, lse))


_RANGES = ((1, 6), (1, 5), (2, 9))
_FIXED = ((1, 1, 2), (5, 7, 11), (60, 64, 4096), (3, 16, 20000))

OPS = (
    OpDef(
        "linear_cross_entropy",
        _loss_type,
        _loss,
        Cases(
            _loss_case,
            (*_RANGES, (0, 1)),
            ((1, 1, 2, 0), (5, 7, 11, 1), (60, 64, 4096, 0), (3, 16, 20000, 0), (9, 8, 9000, 1)),
        ),
        _loss_vjp,
        split=by_rows(0, 2, of=3, outputs=2),
    ),
    OpDef(
        "linear_cross_entropy_grad",
        _loss_grad_type,
        _loss_grad,
        Cases(_loss_grad_case, _RANGES, _FIXED),
        no_vjp="second derivatives are not needed",
        split=by_rows(0, 1, 2, 4, 5, of=6),
    ),
    OpDef(
        "linear_cross_entropy_table_grad",
        _table_grad_type,
        _table_grad,
        Cases(_table_grad_case, _RANGES, _FIXED),
        no_vjp="second derivatives are not needed",
    ),
)
