"""Rotary positions and grouped-query attention over one flat axis of tokens.

Examples lie end to end on the token axis. A query attends to the keys ``first[n] .. last[n]``, both
included: the start of its example and itself give causal attention over a packed batch; slots of a
cache give generation. Query head h reads key-value head h // (heads / kv_heads).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..ir import Node, Value
from ..tensors import Array
from ..types import TensorType
from .draws import constant, integers, operand, uniform
from .expect import expect, expect_float, expect_ids, expect_same
from .record import Case, Cases, Cotangents, OpDef, Operand, Split, by_rows

if TYPE_CHECKING:
    from ..build import GraphBuilder

_TILE = 64
"""Queries whose scores are held at a time."""

# %t = rope_table(%positions, %frequencies)    row n: cosines of p[n] f, then sines
#
# Rotary position embedding (Su et al., 2021): f[i] = theta^(-2 i / head width).


def _rope_table_type(positions: TensorType, frequencies: TensorType) -> TensorType:
    expect(positions.rank == 1, f"{positions} is not a vector")
    expect_ids(positions, *positions.shape)
    expect_float(frequencies, rank=1)
    return frequencies.with_shape((positions.shape[0], 2 * frequencies.shape[0]))


def _rope_table(positions: Array, frequencies: Array) -> Array:
    angle = positions.astype(frequencies.dtype)[:, None] * frequencies
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def _rope_table_case(rows: int, half: int) -> Case:
    positions = operand("i32", rows, draw=integers(0, 4096))
    return Case((positions, operand("f32", half, draw=uniform(0.0, 1.0))))


# %y = rope(%x, %table) {inverse=false}    rotates the pairs (i, i + dim / 2) of each head


def _rope_type(x: TensorType, table: TensorType, *, inverse: bool) -> TensorType:
    expect_float(x, rank=3)
    expect(
        table.dtype is x.dtype and table.shape == (x.shape[0], x.shape[2]),
        f"table {table} does not fit {x}",
    )
    expect(x.shape[2] % 2 == 0, f"heads of {x} have an odd width")
    return x


def _rope(x: Array, table: Array, *, inverse: bool) -> Array:
    half = x.shape[2] // 2
    cos, sin = table[:, None, :half], table[:, None, half:]
    if inverse:
        sin = -sin
    low, high = x[..., :half], x[..., half:]
    y = np.empty_like(x)
    np.subtract(low * cos, high * sin, out=y[..., :half])
    np.add(high * cos, low * sin, out=y[..., half:])
    return y


def _rope_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    inverse = not node.attributes["inverse"]
    return b.op("rope", dy, node.inputs[1], inverse=inverse), None


def _rope_case(rows: int, heads: int, half: int, inverse: int) -> Case:
    operands = (operand("f32", rows, heads, 2 * half), operand("f32", rows, 2 * half))
    return Case(operands, {"inverse": bool(inverse)})


# %o, %lse = attention(%q, %k, %v, %first, %last)
#
# o = softmax(q k^T / sqrt(width)) v over the allowed keys; lse is the log of the sum of the
# exponentials, which lets the backward pass rebuild the probabilities (Dao et al., 2022).


def _attention_type(
    q: TensorType, k: TensorType, v: TensorType, first: TensorType, last: TensorType
) -> tuple[TensorType, TensorType]:
    expect_float(q, rank=3)
    expect_float(k, rank=3)
    expect_same(k, v)
    expect(k.dtype is q.dtype and k.shape[2] == q.shape[2], f"{q} and {k} have different heads")
    heads, kv_heads = q.shape[1], k.shape[1]
    even = kv_heads > 0 and heads % kv_heads == 0
    expect(even, f"{heads} heads do not share {kv_heads} evenly")
    expect_ids(first, q.shape[0])
    expect_ids(last, q.shape[0])
    return q, q.with_shape(q.shape[:2])


def _runs(first: Array, last: Array) -> Iterator[tuple[slice, slice, Array]]:
    """Queries that begin at the same key, the keys they see, and a mask of those they do not.

    A run is cut into tiles of a few queries, so that most keys which causality hides are not even
    looked at.
    """
    edges = np.flatnonzero(np.diff(first)) + 1
    for run, stop in zip([0, *edges], [*edges, len(first)], strict=True):
        for begin in range(run, stop, _TILE):
            end = min(begin + _TILE, stop)
            low, high = int(first[begin]), int(last[begin:end].max()) + 1
            hidden = np.arange(low, high) > last[begin:end, None]
            yield slice(begin, end), slice(low, high), hidden


def _heads_first(x: Array, kv_heads: int) -> Array:
    """[rows, heads, width] -> [kv_heads, heads / kv_heads * rows, width]."""
    rows, heads, width = x.shape
    grouped = x.reshape(rows, kv_heads, heads // kv_heads, width).transpose(1, 2, 0, 3)
    return np.asanyarray(grouped, order="C").reshape(kv_heads, -1, width)


def _rows_first(x: Array, rows: int) -> Array:
    """Inverse of `_heads_first`."""
    kv_heads, _, width = x.shape
    return x.reshape(kv_heads, -1, rows, width).transpose(2, 0, 1, 3).reshape(rows, -1, width)


def _scores(q: Array, k: Array, hidden: Array) -> Array:
    """Scaled scores [kv_heads, group * rows, keys], minus infinity where hidden."""
    scores: Array = q @ k.transpose(0, 2, 1)
    scores *= q.dtype.type(1 / math.sqrt(q.shape[2]))
    np.copyto(scores.reshape(q.shape[0], -1, *hidden.shape), q.dtype.type(-np.inf), where=hidden)
    return scores


def _attention(q: Array, k: Array, v: Array, first: Array, last: Array) -> tuple[Array, Array]:
    kv_heads = k.shape[1]
    out, lse = np.empty_like(q), np.empty(q.shape[:2], dtype=q.dtype)
    for rows, keys, hidden in _runs(first, last):
        p = _scores(_heads_first(q[rows], kv_heads), _heads_first(k[keys], kv_heads), hidden)
        top = p.max(axis=2, keepdims=True)
        np.exp(np.subtract(p, top, out=p), out=p)
        total = p.sum(axis=2, keepdims=True)
        count = hidden.shape[0]
        out[rows] = _rows_first((p @ _heads_first(v[keys], kv_heads)) / total, count)
        lse[rows] = _rows_first(np.log(total) + top, count)[..., 0]
    return out, lse


def _attention_vjp(
    b: GraphBuilder, node: Node, dout: Value | None, dlse: Value | None
) -> Cotangents:
    q, k, v, first, last = node.inputs
    out, lse = node.outputs
    if dout is None:
        dout = b.op("scale", q, factor=0.0)
    delta = b.op("row_dot", dout, out)
    if dlse is not None:
        delta = b.op("sub", delta, dlse)
    dq, dk, dv = b.ops("attention_grad", q, k, v, lse, delta, dout, first, last)
    return dq, dk, dv, None, None


def _attention_operands(rows: int, group: int, kv_heads: int, width: int) -> tuple[Operand, ...]:
    """Two packed examples, the first a third of the rows."""
    start = rows // 3
    first = constant(lambda: np.where(np.arange(rows) < start, 0, start))
    last = constant(lambda: np.arange(rows))
    kv = operand("f32", rows, kv_heads, width)
    q = operand("f32", rows, group * kv_heads, width)
    return q, kv, kv, operand("i32", rows, draw=first), operand("i32", rows, draw=last)


def _attention_case(rows: int, group: int, kv_heads: int, width: int) -> Case:
    return Case(_attention_operands(rows, group, kv_heads, width))


# %dq, %dk, %dv = attention_grad(%q, %k, %v, %lse, %delta, %dout, %first, %last)
#
# With p = exp(s - lse) and delta = sum(dout out) - dlse for each row and head:
# dv = p^T dout, ds = p (dout v^T - delta) / sqrt(width), dq = ds k, dk = ds^T q.


def _attention_grad_type(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    lse: TensorType,
    delta: TensorType,
    dout: TensorType,
    first: TensorType,
    last: TensorType,
) -> tuple[TensorType, TensorType, TensorType]:
    _, lse_type = _attention_type(q, k, v, first, last)
    expect_same(lse_type, lse, delta)
    expect_same(q, dout)
    return q, k, v


def _attention_grad(
    q: Array,
    k: Array,
    v: Array,
    lse: Array,
    delta: Array,
    dout: Array,
    first: Array,
    last: Array,
) -> tuple[Array, Array, Array]:
    kv_heads, scale = k.shape[1], q.dtype.type(1 / math.sqrt(q.shape[2]))
    dq, dk, dv = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
    for rows, keys, hidden in _runs(first, last):
        count = hidden.shape[0]
        qs, ks = _heads_first(q[rows], kv_heads), _heads_first(k[keys], kv_heads)
        vs, douts = _heads_first(v[keys], kv_heads), _heads_first(dout[rows], kv_heads)
        p = _scores(qs, ks, hidden)
        np.exp(np.subtract(p, _heads_first(lse[rows, :, None], kv_heads), out=p), out=p)
        ds: Array = douts @ vs.transpose(0, 2, 1)
        ds -= _heads_first(delta[rows, :, None], kv_heads)
        ds *= p
        ds *= scale
        dq[rows] = _rows_first(ds @ ks, count)
        dk[keys] += (ds.transpose(0, 2, 1) @ qs).transpose(1, 0, 2)
        dv[keys] += (p.transpose(0, 2, 1) @ douts).transpose(1, 0, 2)
    return dq, dk, dv


def _attention_grad_case(rows: int, group: int, kv_heads: int, width: int) -> Case:
    q, k, v, first, last = _attention_operands(rows, group, kv_heads, width)
    stat = operand("f32", rows, group * kv_heads)
    return Case((q, k, v, stat, stat, q, first, last))


_RANGES = ((1, 7), (1, 3), (1, 2), (1, 4))
_FIXED = ((1, 1, 1, 1), (7, 2, 2, 4), (70, 4, 2, 64), (33, 4, 5, 128))
_HEADS_AXIS = (1, 1, 1)

OPS = (
    OpDef(
        "rope_table",
        _rope_table_type,
        _rope_table,
        Cases(_rope_table_case, ((1, 6), (1, 5)), ((1, 1), (7, 3), (64, 64))),
        no_vjp="positions are whole numbers and frequencies are fixed",
        split=by_rows(0, of=2),
    ),
    OpDef(
        "rope",
        _rope_type,
        _rope,
        Cases(
            _rope_case,
            ((1, 5), (1, 3), (1, 4), (0, 1)),
            ((1, 1, 1, 0), (7, 3, 5, 1), (64, 20, 64, 0)),
        ),
        _rope_vjp,
        split=by_rows(0, 1, of=2),
    ),
    OpDef(
        "attention",
        _attention_type,
        _attention,
        Cases(_attention_case, _RANGES, _FIXED),
        _attention_vjp,
        split=Split((*_HEADS_AXIS, None, None), (1, 1)),
    ),
    OpDef(
        "attention_grad",
        _attention_grad_type,
        _attention_grad,
        Cases(_attention_grad_case, _RANGES, _FIXED),
        no_vjp="second derivatives are not needed",
        split=Split((*_HEADS_AXIS, 1, 1, 1, None, None), (1, 1, 1)),
    ),
)
