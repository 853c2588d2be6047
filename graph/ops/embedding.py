"""Ops that move rows: the embedding and the key-value cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..ir import Node, Value
from ..tensors import Array
from ..types import DType, TensorType
from .draws import distinct, integers, operand
from .expect import expect, expect_float, expect_ids
from .record import Case, Cases, Cotangents, OpDef, Split, by_rows

if TYPE_CHECKING:
    from ..build import GraphBuilder

_RANGES = ((1, 6), (1, 5), (1, 4))

# %y = gather_rows(%table, %ids)    y[n] = table[ids[n]]; rows of an f16 table come out as f32


def _gather_rows_type(table: TensorType, ids: TensorType) -> TensorType:
    expect(table.dtype.is_float and table.rank == 2, f"{table} is not a matrix of floats")
    expect(ids.rank == 1, f"{ids} is not a vector")
    expect_ids(ids, *ids.shape)
    dtype = DType.F64 if table.dtype is DType.F64 else DType.F32
    return TensorType(dtype, (ids.shape[0], table.shape[1]))


def _gather_rows(table: Array, ids: Array) -> Array:
    rows = table[ids]
    return rows.astype(np.float32) if rows.dtype == np.float16 else rows


def _gather_rows_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    table, ids = node.inputs
    return b.op("scatter_add_rows", dy, ids, rows=table.type.shape[0]), None


def _gather_rows_case(rows: int, width: int, count: int) -> Case:
    ids = operand("i32", count, draw=integers(0, rows))
    return Case((operand("f32", rows, width), ids))


# %t = scatter_add_rows(%x, %ids) {rows=512}    t[ids[n]] += x[n], beginning with zeros


def _scatter_add_rows_type(x: TensorType, ids: TensorType, *, rows: int) -> TensorType:
    expect_float(x, rank=2)
    expect_ids(ids, x.shape[0])
    expect(rows > 0, f"{rows} rows hold nothing")
    return x.with_shape((rows, x.shape[1]))


def _scatter_add_rows(x: Array, ids: Array, *, rows: int) -> Array:
    result = np.zeros((rows, x.shape[1]), dtype=x.dtype)
    np.add.at(result, ids, x)
    return result


def _scatter_add_rows_vjp(b: GraphBuilder, node: Node, dt: Value) -> Cotangents:
    return b.op("gather_rows", dt, node.inputs[1]), None


def _scatter_add_rows_case(rows: int, width: int, count: int) -> Case:
    ids = operand("i32", count, draw=integers(0, rows))
    return Case((operand("f32", count, width), ids), {"rows": rows})


# %c = write_rows(%cache, %x, %slots)    the cache with row slots[n] replaced by x[n]


def _write_rows_type(cache: TensorType, x: TensorType, slots: TensorType) -> TensorType:
    expect_float(cache)
    expect(
        x.rank == cache.rank >= 1 and x.dtype is cache.dtype and x.shape[1:] == cache.shape[1:],
        f"{x} does not have the rows of {cache}",
    )
    expect_ids(slots, x.shape[0])
    return cache


def _write_rows(cache: Array, x: Array, slots: Array) -> Array:
    result = cache.copy()
    result[slots] = x
    return result


def _write_rows_case(rows: int, width: int, extra: int) -> Case:
    operands = (
        operand("f32", rows + extra, 2, width),
        operand("f32", rows, 2, width),
        operand("i32", rows, draw=distinct(rows + extra)),
    )
    return Case(operands)


# %y = add_ids(%x) {by=1}        whole numbers, shifted


def _add_ids_type(x: TensorType, *, by: int) -> TensorType:
    expect_ids(x, *x.shape)
    return x


def _add_ids(x: Array, *, by: int) -> Array:
    return np.asarray(x + np.int32(by))


def _add_ids_case(count: int, by: int) -> Case:
    return Case((operand("i32", count, draw=integers(0, 1000)),), {"by": by})


OPS = (
    OpDef(
        "add_ids",
        _add_ids_type,
        _add_ids,
        Cases(_add_ids_case, ((1, 9), (-3, 3)), ((1, 1), (1, 0), (300, -2))),
        no_vjp="whole numbers have no derivative",
        split=by_rows(0, of=1),
    ),
    OpDef(
        "gather_rows",
        _gather_rows_type,
        _gather_rows,
        Cases(_gather_rows_case, _RANGES, ((1, 1, 1), (7, 5, 9), (512, 128, 64))),
        _gather_rows_vjp,
        split=by_rows(1, of=2),
    ),
    OpDef(
        "scatter_add_rows",
        _scatter_add_rows_type,
        _scatter_add_rows,
        Cases(_scatter_add_rows_case, _RANGES, ((1, 1, 1), (7, 5, 9), (512, 128, 64))),
        _scatter_add_rows_vjp,
        split=Split((1, None), (1,)),
    ),
    OpDef(
        "write_rows",
        _write_rows_type,
        _write_rows,
        Cases(_write_rows_case, _RANGES, ((1, 1, 0), (3, 5, 9), (64, 64, 64))),
        no_vjp="the key-value cache only serves generation",
    ),
)
