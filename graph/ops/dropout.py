"""Dropout with counter-based random numbers: the same mask on every backend, forward and backward.

Srivastava et al. (2014), "inverted": what is kept is divided by the probability of keeping it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..ir import Node, Value
from ..random import philox, unit_interval
from ..tensors import Array
from ..types import DType, TensorType
from .draws import integers, operand
from .expect import expect, expect_float, expect_scalar
from .record import Case, Cases, Cotangents, OpDef

if TYPE_CHECKING:
    from ..build import GraphBuilder

# %y = dropout(%x, %draw) {p=0.1, seed=0, stream=3}
#
# Element i is kept if its random number is at least p. That is word i % 4 of philox at the counter
# (i // 4, draw, stream, 0) under the seed: `draw` tells steps apart, `stream` places in a model.


def _dropout_type(
    x: TensorType, draw: TensorType, *, p: float, seed: int, stream: int
) -> TensorType:
    expect_float(x)
    expect_scalar(draw, DType.I32)
    expect(0 <= p < 1, f"p {p} is not in [0, 1)")
    expect(0 <= seed < 2**32, f"seed {seed} is not a number of 32 bits")
    expect(0 <= stream < 2**32, f"stream {stream} is not a number of 32 bits")
    expect(x.size < 2**32, f"{x} has more elements than there are counters")
    return x


def _dropout(x: Array, draw: Array, *, p: float, seed: int, stream: int) -> Array:
    quads = np.arange(-(-x.size // 4), dtype=np.uint32)
    words = philox((quads, int(draw) & 0xFFFFFFFF, stream, 0), seed)
    kept = unit_interval(words.T.reshape(-1)[: x.size]) >= np.float32(p)
    factor = x.dtype.type(1 / (1 - p))
    result: Array = np.where(kept.reshape(x.shape), x * factor, x.dtype.type(0))
    return result


def _dropout_vjp(b: GraphBuilder, node: Node, dy: Value) -> Cotangents:
    return b.op("dropout", dy, node.inputs[1], **node.attributes), None


def _dropout_case(rows: int, columns: int, tenths: int) -> Case:
    operands = (operand("f32", rows, columns), operand("i32", draw=integers(0, 1000)))
    return Case(operands, {"p": tenths / 10, "seed": 7, "stream": 2**31 + rows})


OPS = (
    OpDef(
        "dropout",
        _dropout_type,
        _dropout,
        Cases(
            _dropout_case,
            ((1, 7), (1, 9), (0, 9)),
            ((1, 1, 5), (5, 7, 3), (64, 1408, 1), (33, 2560, 0)),
        ),
        _dropout_vjp,
    ),
)
