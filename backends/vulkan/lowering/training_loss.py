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
from .calls import Lowering, Meaning, Part, Rule, fused_rule, groups_for, is_large
from .loss import (
    MOST_TERMS,
    UNIT,
    fits_units,
    gradient_scale,
    listed_factors,
    listed_rows,
    logits_tile,
    pitch_of,
    places_of,
    sizes_of,
    tile_of_parts,
)
from .meanings import arrays
from .tiles import LARGE_TILE

_KEPT = 128 << 20
"""Bytes of logits that are kept at a time."""
_TOGETHER, _SLICES = 8, 8
"""Rows that a workgroup of softmax_grad has for matrix units, and workgroups that share them."""
_SLICES_OF_ONE = 4
"""Workgroups for a row without."""
_PARTIAL_SLICES = 8
"""Workgroups for a row in logits_partial."""
_QUADS = 256
"""Fours of logits that a workgroup takes at once there."""
_NONE = np.float32(-1e30)
"""Below every logit, as in softmax_merge.glsl."""
_TRIED = 16384
"""Columns of the table with which the kernels of a chunk are timed; more would not tell more."""


@dataclass(frozen=True)
class _Rows:
    """Labelled rows of h in chunks.

    Attributes:
        places: rows of a chunk.
        rows: the list of rows.
        counts: for each chunk the length of the list and its first place there.
        targets: the labels.
        by: what multiplies them: "f32" or "f16" for a table of that type, "cm" for matrix units,
            "nv" for matrices as large as a workgroup.
    """

    places: int
    rows: Value
    counts: Value
    targets: Value
    by: str

    @property
    def lines(self) -> int:
        """Rows of h that large matrices read: the places of all chunks."""
        return self.places * self.counts.type.shape[0] if self.by == "nv" else 0

    @property
    def terms(self) -> int:
        """Matrices of f16 that h is the sum of; 0 if it is taken as it is."""
        return MOST_TERMS if self.by in ("cm", "nv") else 0

    def count(self, chunk: int) -> Part:
        """What tells a kernel which chunk is its own."""
        row = self.counts.type.nbytes // self.counts.type.shape[0]
        return Part(self.counts, chunk * row, tensor("u32", 2))


@dataclass(frozen=True)
class _Logits:
    """Logits of a chunk.

    Attributes:
        z: one row for each place.
        partial: of each tile the largest, the sum of exp(z - largest) and the label's.
        power: what each row of z is to be multiplied by, if anything.
    """

    z: Value
    partial: Value
    power: Value | None = None


def _loss_and_gradient(lowering: Lowering, node: Node) -> None:
    match = LOSS_AND_GRADIENT.bind(node)
    nodes = {inner.op: inner for inner in expanded(node)}
    h, table, weights = match["h"], match["table"], match["weights"]
    places = _places(lowering.limits, h, table)
    if not places or nodes["full_like"].attributes["value"] != 1:
        lowering.lower_apart(node)
        return
    rows = _labelled_chunks(lowering, match["labels"], h, table, places)
    for value in (match["nll"], match["dh"]):
        groups = groups_for(value.type.size, 256, lowering.limits)
        lowering.call("fill", groups, {"COUNT": value.type.size, "VALUE": 0.0}, y=value)
    listed: dict[str, Value | Part] = {"rows": rows.rows}
    listed["count"] = Part(rows.counts, 0, tensor("u32", 1))
    factors, counted = listed_factors(lowering, h, listed, rows.terms, rows.lines)
    for chunk in range(rows.counts.type.shape[0]):
        if rows.by == "nv":
            logits = _large_logits(lowering, rows, chunk, table, factors)
        else:
            logits = _keep_logits(lowering, rows, chunk, h, table, factors, counted)
        dz = _softmax_grad(lowering, rows, chunk, logits, weights, match["nll"])
        _rows_grad(lowering, rows, chunk, dz, table, weights, match["dh"])
    lowering.lower(nodes["dot"])


def _places(limits: Limits, h: Value, table: Value) -> int:
    """Rows of a chunk; 0 if the table or the logits of a few rows are more than can be bound."""
    rows, columns = h.type.shape[0], table.type.shape[0]
    most = min(_KEPT, limits.max_range) // (4 * columns) // UNIT * UNIT
    if table.type.nbytes > limits.max_range or h.type.nbytes > limits.max_range:
        return 0
    return min(rows, most)


def _labelled_chunks(
    lowering: Lowering, labels: Value, h: Value, table: Value, places: int
) -> _Rows:
    by = _multiplied_by(lowering, h, table, places)
    if by == "nv":
        places = math.ceil(places / LARGE_TILE.rows) * LARGE_TILE.rows
    count, pitch = labels.type.shape[0], pitch_of(labels)
    chunks = math.ceil(count / places)
    sizes = {"ROWS": count, "PARTS": 1, "PART": table.type.shape[0], "PITCH": pitch}
    rows = _Rows(
        places,
        lowering.scratch(tensor("u32", count)),
        lowering.scratch(tensor("u32", chunks, pitch)),
        lowering.scratch(tensor("i32", 1, pitch)),
        by,
    )
    written = {"rows": rows.rows, "count": rows.counts, "targets": rows.targets}
    constants = {**sizes, "CHUNKS": chunks, "PLACES": places}
    lowering.call("labelled_rows+chunked", (1, 1, 1), constants, labels=labels, **written)
    return rows


def _multiplied_by(lowering: Lowering, h: Value, table: Value, places: int) -> str:
    """What multiplies rows and table for the logits; see `_Rows`.

    Matrices as large as a workgroup have to be timed, and by that tried, at their first use:
    drivers differ in which of them they have.
    """
    columns, width = table.type.shape
    if not fits_units(lowering.limits, h, table):
        return table.type.dtype.value
    sizes = places, width, min(columns, _TRIED)
    whole = width % LARGE_TILE.columns == 0 and columns % LARGE_TILE.columns == 0
    able = whole and is_large(sizes) and "cooperative_matrix2_f16" in lowering.limits.features
    ways = ["logits_nv"] * able + ["cross_entropy_cm"]
    chosen = lowering.choose(LOSS_AND_GRADIENT.name, sizes, ways)
    return "nv" if chosen == "logits_nv" else "cm"


def _keep_logits(
    lowering: Lowering,
    rows: _Rows,
    chunk: int,
    h: Value,
    table: Value,
    factors: Mapping[str, Value],
    counted: Mapping[str, int],
) -> _Logits:
    columns, pitch = table.type.shape[0], pitch_of(h)
    tile = logits_tile(lowering.limits, rows.places, columns, rows.terms)
    tiles = math.ceil(columns / tile.columns)
    z = lowering.scratch(tensor("f32", rows.places, columns))
    partial = lowering.scratch(tensor("f32", tiles, 3, rows.places))
    sizes = {**sizes_of(h, columns), "TILES": tiles, "PITCH": pitch, "PLACES": rows.places}
    lowering.call(
        f"cross_entropy_{rows.by}+kept",
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
    return _Logits(z, partial)


def _large_logits(
    lowering: Lowering, rows: _Rows, chunk: int, table: Value, factors: Mapping[str, Value]
) -> _Logits:
    """By matrices as large as a workgroup, and their statistics behind them."""
    (columns, width), places = table.type.shape, rows.places
    z = lowering.scratch(tensor("f32", places, columns))
    partial = lowering.scratch(tensor("f32", _PARTIAL_SLICES, 3, places))
    sizes = {"COLUMNS": columns, "PLACES": places}
    listed: dict[str, Value | Part] = {"count": rows.count(chunk), "z": z}
    lowering.call(
        "logits_nv",
        groups_for(LARGE_TILE.count(places, columns), 1, lowering.limits),
        {**sizes, **LARGE_TILE.constants, "HIGH": rows.lines, "WIDTH": width},
        h=factors["h"],
        table=table,
        **listed,
    )
    sizes |= {"ROWS": rows.rows.type.size, "PITCH": rows.targets.type.shape[1]}
    lowering.call(
        "logits_partial",
        groups_for(places * _PARTIAL_SLICES, 1, lowering.limits),
        {**sizes, "TILES": _PARTIAL_SLICES},
        targets=rows.targets,
        rows=rows.rows,
        power=factors["power"],
        partial=partial,
        **listed,
    )
    return _Logits(z, partial, factors["power"])


def _softmax_grad(
    lowering: Lowering, rows: _Rows, chunk: int, logits: _Logits, weights: Value, nll: Value
) -> Value:
    """The gradient of a chunk's logits, in their place without matrix units."""
    z, partial = logits.z, logits.partial
    tiles, pitch = partial.type.shape[0], rows.targets.type.shape[1]
    columns, high = z.type.shape[1], panels.padded(rows.places)
    constants = {"ROWS": nll.type.size, "PLACES": rows.places, "COLUMNS": columns}
    constants |= {"TILES": tiles, "PITCH": pitch, "SLICES": _SLICES_OF_ONE, "TOGETHER": 1}
    options, found = "", {"z": z}
    if rows.terms:
        options, found["dz"] = "+halves", lowering.scratch(tensor("f16", high, columns))
        constants |= {"SLICES": _SLICES, "TOGETHER": _TOGETHER, "HIGH": high}
    if logits.power is not None:
        options, found["power"] = f"{options}+power", logits.power
    groups = math.ceil(rows.places / constants["TOGETHER"]) * constants["SLICES"]
    lowering.call(
        f"softmax_grad{options}",
        groups_for(groups, 1, lowering.limits),
        constants,
        targets=rows.targets,
        rows=rows.rows,
        count=rows.count(chunk),
        spread=weights,
        peak=weights,
        partial=partial,
        nll=nll,
        **found,
    )
    return found.get("dz", z)


def _rows_grad(
    lowering: Lowering,
    rows: _Rows,
    chunk: int,
    dz: Value,
    table: Value,
    weights: Value,
    dh: Value,
) -> None:
    """Put dz table into a chunk's rows of dh, in two stages."""
    (high, columns), width, limits = dz.type.shape, table.type.shape[1], lowering.limits
    places, terms = rows.places, rows.terms
    tile, parts = tile_of_parts(limits, places, columns, width, terms)
    y = lowering.scratch(tensor("f32", parts, places, width))
    sizes = {"PLACES": places, "WIDTH": width, "PARTS": parts}
    lowering.call(
        f"rows_grad_{'cm' if terms else rows.by}+parted",
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


def _large_logits_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    h, table, z = arrays(operands, "h", "table", "z")
    listed = h[:, places_of(operands, constants)].astype(np.float32).sum(axis=0)
    z[: len(listed)] = listed @ table.astype(np.float32).T


def _partial_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    rows = listed_rows(operands, constants)
    targets, power, z, partial = arrays(operands, "targets", "power", "z", "partial")
    logits = z[: rows.size] * power[rows, None]
    labels = targets.reshape(-1)[rows, None]
    columns = np.arange(z.shape[1])
    slices = columns // 4 // _QUADS % len(partial)
    for number, found in enumerate(partial):
        some, here = logits[:, slices == number], columns[slices == number]
        top = some.max(axis=1, initial=_NONE)
        total = np.exp(some - top[:, None]).sum(axis=1)
        found[:, : rows.size] = top, total, np.where(here == labels, some, 0).sum(axis=1)


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
    logits = z[: rows.size]
    if "power" in operands:
        (power,) = arrays(operands, "power")
        logits = logits * power[rows, None]
    gradient = np.exp(logits - lse[:, None]) * spread[rows, None]
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
    "logits_nv": _large_logits_meaning,
    "logits_partial": _partial_meaning,
    "softmax_grad": _softmax_grad_meaning,
    "listed_sums": _listed_sums_meaning,
}
