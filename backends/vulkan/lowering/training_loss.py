"""The rule for a step's loss together with its gradient, and meanings of its kernels.

The logits of a chunk of labelled rows by all of the table are kept from the loss to the gradient,
so that they are computed once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....graph.ir import Node, Value
from ....graph.ops.fused import expanded
from ....graph.tensors import HostValue
from ....graph.types import tensor
from ....passes.fuse.patterns import LOSS_AND_GRADIENT
from ..limits import Limits
from . import panels
from .calls import Lowering, Meaning, Part, Rule, fused_rule, groups_for
from .loss import (
    MOST_TERMS,
    UNIT,
    fits_units,
    gradient_scale,
    listed_factors,
    listed_rows,
    logits_tile,
    loss_kernel,
    pitch_of,
    sizes_of,
    tile_of_parts,
)
from .meanings import arrays

_KEPT = 128 << 20
"""Bytes of logits that are kept at a time."""
_TOGETHER, _SLICES = 8, 8
"""Rows that a workgroup of softmax_grad has for matrix units, and workgroups that share them."""
_SLICES_OF_ONE = 4
"""Workgroups for a row without."""


@dataclass(frozen=True)
class _Rows:
    """Labelled rows of h in chunks.

    Attributes:
        places: rows of a chunk.
        rows: the list of rows.
        counts: for each chunk the length of the list and its first place there.
        targets: the labels.
    """

    places: int
    rows: Value
    counts: Value
    targets: Value

    def count(self, chunk: int) -> Part:
        """What tells a kernel which chunk is its own."""
        row = self.counts.type.nbytes // self.counts.type.shape[0]
        return Part(self.counts, chunk * row, tensor("u32", 2))


def _loss_and_gradient(lowering: Lowering, node: Node) -> None:
    match = LOSS_AND_GRADIENT.bind(node)
    nodes = {inner.op: inner for inner in expanded(node)}
    h, table, weights = match["h"], match["table"], match["weights"]
    places = _places(lowering.limits, h, table)
    if not places or nodes["full_like"].attributes["value"] != 1:
        lowering.lower_apart(node)
        return
    rows = _labelled_chunks(lowering, match["labels"], table, places)
    for value in (match["nll"], match["dh"]):
        groups = groups_for(value.type.size, 256, lowering.limits)
        lowering.call("fill", groups, {"COUNT": value.type.size, "VALUE": 0.0}, y=value)
    terms = MOST_TERMS if fits_units(lowering.limits, h, table) else 0
    listed: dict[str, Value | Part] = {"rows": rows.rows}
    listed["count"] = Part(rows.counts, 0, tensor("u32", 1))
    factors, counted = listed_factors(lowering, h, listed, terms)
    for chunk in range(rows.counts.type.shape[0]):
        z, partial = _keep_logits(lowering, rows, chunk, h, table, factors, counted)
        dz = _softmax_grad(lowering, rows, chunk, z, partial, weights, match["nll"], terms)
        _rows_grad(lowering, rows, chunk, dz, table, weights, match["dh"], terms)
    lowering.lower(nodes["dot"])


def _places(limits: Limits, h: Value, table: Value) -> int:
    """Rows of a chunk; 0 if the table or the logits of a few rows are more than can be bound."""
    rows, columns = h.type.shape[0], table.type.shape[0]
    most = min(_KEPT, limits.max_range) // (4 * columns) // UNIT * UNIT
    if table.type.nbytes > limits.max_range or h.type.nbytes > limits.max_range:
        return 0
    return min(rows, most)


def _labelled_chunks(lowering: Lowering, labels: Value, table: Value, places: int) -> _Rows:
    count, pitch = labels.type.shape[0], pitch_of(labels)
    chunks = math.ceil(count / places)
    sizes = {"ROWS": count, "PARTS": 1, "PART": table.type.shape[0], "PITCH": pitch}
    rows = _Rows(
        places,
        lowering.scratch(tensor("u32", count)),
        lowering.scratch(tensor("u32", chunks, pitch)),
        lowering.scratch(tensor("i32", 1, pitch)),
    )
    written = {"rows": rows.rows, "count": rows.counts, "targets": rows.targets}
    constants = {**sizes, "CHUNKS": chunks, "PLACES": places}
    lowering.call("labelled_rows+chunked", (1, 1, 1), constants, labels=labels, **written)
    return rows


def _keep_logits(
    lowering: Lowering,
    rows: _Rows,
    chunk: int,
    h: Value,
    table: Value,
    factors: Mapping[str, Value],
    counted: Mapping[str, int],
) -> tuple[Value, Value]:
    """The logits of a chunk, and of each tile the largest, the sum and the label's."""
    columns, pitch = table.type.shape[0], pitch_of(h)
    tile = logits_tile(lowering.limits, rows.places, columns, counted.get("TERMS", 0))
    tiles = math.ceil(columns / tile.columns)
    z = lowering.scratch(tensor("f32", rows.places, columns))
    partial = lowering.scratch(tensor("f32", tiles, 3, rows.places))
    sizes = {**sizes_of(h, columns), "TILES": tiles, "PITCH": pitch, "PLACES": rows.places}
    lowering.call(
        f"{loss_kernel('cross_entropy', table, bool(counted))}+kept",
        groups_for(tile.count(rows.places, columns), 1, lowering.limits),
        {**sizes, **tile.constants, **counted},
        table=table,
        targets=rows.targets,
        rows=rows.rows,
        count=rows.count(chunk),
        **factors,
        partial=partial,
        z=z,
    )
    return z, partial


def _softmax_grad(
    lowering: Lowering,
    rows: _Rows,
    chunk: int,
    z: Value,
    partial: Value,
    weights: Value,
    nll: Value,
    terms: int,
) -> Value:
    """The gradient of a chunk's logits, in their place without matrix units."""
    tiles, pitch = partial.type.shape[0], rows.targets.type.shape[1]
    columns, high = z.type.shape[1], panels.padded(rows.places)
    constants = {"ROWS": nll.type.size, "PLACES": rows.places, "COLUMNS": columns}
    constants |= {"TILES": tiles, "PITCH": pitch, "SLICES": _SLICES_OF_ONE, "TOGETHER": 1}
    dz = {}
    if terms:
        dz["dz"] = lowering.scratch(tensor("f16", high, columns))
        constants |= {"SLICES": _SLICES, "TOGETHER": _TOGETHER, "HIGH": high}
    groups = math.ceil(rows.places / constants["TOGETHER"]) * constants["SLICES"]
    lowering.call(
        f"softmax_grad{'+halves' * bool(terms)}",
        groups_for(groups, 1, lowering.limits),
        constants,
        targets=rows.targets,
        rows=rows.rows,
        count=rows.count(chunk),
        spread=weights,
        peak=weights,
        partial=partial,
        nll=nll,
        z=z,
        **dz,
    )
    return dz.get("dz", z)


def _rows_grad(
    lowering: Lowering,
    rows: _Rows,
    chunk: int,
    dz: Value,
    table: Value,
    weights: Value,
    dh: Value,
    terms: int,
) -> None:
    """Put dz table into a chunk's rows of dh, in two stages."""
    (high, columns), width, limits = dz.type.shape, table.type.shape[1], lowering.limits
    places = rows.places
    tile, parts = tile_of_parts(limits, places, columns, width, terms)
    y = lowering.scratch(tensor("f32", parts, places, width))
    sizes = {"PLACES": places, "WIDTH": width, "PARTS": parts}
    lowering.call(
        f"{loss_kernel('rows_grad', table, bool(terms))}+parted",
        groups_for(tile.count(places, width) * parts, 1, limits),
        {**sizes, "COLUMNS": columns, **tile.constants, **({"HIGH": high} if terms else {})},
        dz=dz,
        table=table,
        count=rows.count(chunk),
        y=y,
    )
    lowering.call(
        f"listed_sums{'+scaled' * bool(terms)}",
        groups_for(places * math.ceil(width / 4), 128, limits),
        {**sizes, "ROWS": dh.type.shape[0]},
        y=y,
        rows=rows.rows,
        count=rows.count(chunk),
        dh=dh,
        **({"spread": weights, "peak": weights} if terms else {}),
    )


def _softmax_grad_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    rows = listed_rows(operands, constants)
    targets, spread, peak, z, nll = arrays(operands, "targets", "spread", "peak", "z", "nll")
    (partial,) = arrays(operands, "partial")
    tops, totals, picked = partial[:, :, : rows.size].transpose(1, 0, 2)
    top = tops.max(axis=0)
    lse = np.log((totals * np.exp(tops - top)).sum(axis=0)) + top
    nll[rows] = lse - picked.sum(axis=0)
    gradient = np.exp(z[: rows.size] - lse[:, None]) * spread[rows, None]
    gradient[np.arange(rows.size), targets.reshape(-1)[rows]] -= peak[rows]
    if "dz" not in operands:
        z[: rows.size] = gradient
        return
    (dz,) = arrays(operands, "dz")
    halves = np.zeros_like(dz)
    halves[: rows.size] = gradient / gradient_scale(operands, constants)
    dz[...] = panels.into_panels(halves)


def _listed_sums_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    rows = listed_rows(operands, constants)
    y, dh = arrays(operands, "y", "dh")
    scale = gradient_scale(operands, constants) if "spread" in operands else 1
    dh[rows] = y[:, : rows.size].sum(axis=0) * scale


RULES: dict[str, Rule] = {fused_rule("loss_and_gradient"): _loss_and_gradient}
MEANINGS: dict[str, Meaning] = {
    "softmax_grad": _softmax_grad_meaning,
    "listed_sums": _listed_sums_meaning,
}
