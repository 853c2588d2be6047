"""Rules and meanings of the kernels for the family `loss`: the cross-entropy and its gradients.

Both work on the rows that have a label, and on some rows of the table at a time.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from ....graph.ir import Node, Value
from ....graph.tensors import Array, HostValue
from ....graph.types import DType, tensor
from ....passes.fuse.patterns import LOSS_GRADIENTS
from ..limits import Limits
from . import panels
from .calls import Lowering, Meaning, Part, Rule, fused_rule, groups_for, row_ranges, rows_of
from .linear import part_of_inner, tiled_product
from .meanings import arrays, row_powers
from .tiles import SUBGROUP, TILE_K, Tile, plain_tile, units_tile

_SCRATCH = 64 << 20
"""Bytes of logits that the gradient holds at a time."""
UNIT = 128
"""The table is cut at multiples of so many rows, where they fit."""
PITCH = 64
"""Numbers for every row are padded to a multiple where there are several of them, to be aligned."""
_WORKGROUPS_WANTED = 256
_PARTED_WANTED = 4
"""Workgroups for each core: twice as many as it runs at once, so that the last ones fill it too."""
_PARTED_INNER = 512
"""Inner length that makes a part worth its second stage."""
_UNIT_DEPTH = 32
"""Values of the inner axis that rows_grad_cm takes at once."""
LARGEST = np.float32(8192)
"""The largest gradient that logits_grad_cm writes for spread and peak of one size."""


PLAIN_TILES = plain_tile(128, 128, 2, 2), plain_tile(64, 128, 1, 2), plain_tile(64, 64)
MOST_TERMS = 2


UNIT_TILES = units_tile(128, 128, 64, 64), units_tile(64, 128, 32, 64)


def shared_memory(tile: Tile, terms: int) -> int:
    """Bytes that the kernels declare at most, those for matrix units if there are terms."""
    if terms:
        return 96 * (tile.rows + tile.columns) + 8 * tile.rows
    return 64 * (tile.rows + tile.columns + 8) + 8 * tile.rows


def logits_tile(limits: Limits, rows: int, columns: int, terms: int) -> Tile:
    """The largest tile that fits the device and leaves many workgroups something to do."""
    tiles = UNIT_TILES if terms else PLAIN_TILES
    for tile in tiles:
        busy = tile.count(rows, columns) >= _WORKGROUPS_WANTED and tile.rows <= rows
        if busy and shared_memory(tile, terms) <= limits.shared_memory:
            return tile
    return tiles[-1]


def tile_of_parts(
    limits: Limits, rows: int, inner: int, columns: int, terms: int
) -> tuple[Tile, int]:
    """The largest tile that fits, and how many parts of the inner axis keep the device busy."""
    tiles = UNIT_TILES if terms else PLAIN_TILES
    fitting = (t for t in tiles if shared_memory(t, min(terms, 1)) <= limits.shared_memory)
    tile = next((tile for tile in fitting if tile.rows <= rows), tiles[-1])
    wanted = _PARTED_WANTED * limits.cores or 2 * _WORKGROUPS_WANTED
    parts = min(wanted // tile.count(rows, columns), inner // _PARTED_INNER)
    return tile, max(1, min(parts, limits.max_range // (4 * rows * columns)))


def fits_units(limits: Limits, h: Value, table: Value) -> bool:
    """Whether the kernels for matrix units can be used."""
    able = "cooperative_matrix_f16" in limits.features and limits.subgroup == SUBGROUP
    needed = max(shared_memory(tile, MOST_TERMS) for tile in UNIT_TILES)
    whole = h.type.shape[1] % 32 == 0 and table.type.shape[0] % 32 == 0
    return able and needed <= limits.shared_memory and whole and table.type.dtype is DType.F16


def _loss(lowering: Lowering, node: Node) -> None:
    h, table, labels = node.inputs
    nll, lse = node.outputs
    rows, pitch = h.type.shape[0], pitch_of(h)
    on_units = fits_units(lowering.limits, h, table)
    # The sums of two products with f16 are as good as one with f32.
    terms = MOST_TERMS if on_units else 0
    tile = logits_tile(lowering.limits, rows, table.type.shape[0], terms)
    ranges = _ranges(lowering.limits, table, table.type.shape[0])
    listed, targets = _labelled_rows(lowering, labels, ranges)
    tiles = [math.ceil(columns / tile.columns) for _, columns in ranges]
    partial = lowering.scratch(tensor("f32", sum(tiles), 3, pitch))
    factors, counted = listed_factors(lowering, h, listed, terms)
    for k, (begin, columns) in enumerate(ranges):
        sizes = {**sizes_of(h, columns), "TILES": tiles[k], "PITCH": pitch}
        lowering.call(
            loss_kernel("cross_entropy", table, on_units),
            groups_for(tile.count(rows, columns), 1, lowering.limits),
            {**sizes, **tile.constants, **counted},
            table=rows_of(table, begin, columns),
            targets=rows_of(targets, k, 1),
            **listed,
            **factors,
            partial=rows_of(partial, sum(tiles[:k]), tiles[k]),
        )
    constants = {"ROWS": rows, "TILES": sum(tiles), "PITCH": pitch}
    groups = groups_for(rows, 16, lowering.limits)
    operands = {"labels": labels, "partial": partial, "nll": nll, "lse": lse}
    lowering.call("cross_entropy_merge", groups, constants, **operands)


def _loss_grad(lowering: Lowering, node: Node) -> None:
    _gradients(lowering, node.inputs, node.outputs[0], None)


def _table_grad(lowering: Lowering, node: Node) -> None:
    _gradients(lowering, node.inputs, None, node.outputs[0])


def _both_gradients(lowering: Lowering, node: Node) -> None:
    match = LOSS_GRADIENTS.bind(node)
    operands = tuple(match[name] for name in ("spread", "peak", "h", "table", "labels", "lse"))
    _gradients(lowering, operands, match["dh"], match["dtable"])


def _gradients(
    lowering: Lowering, operands: tuple[Value, ...], dh: Value | None, dtable: Value | None
) -> None:
    """The gradient by h, that by the table, or both, of a part of the table after the other."""
    spread, peak, h, table, labels, lse = operands
    rows, width = h.type.shape
    limits = lowering.limits
    on_units = fits_units(limits, h, table)
    dtype = "f16" if on_units else "f32"
    row_bytes = rows * (2 if on_units else 4)
    chunks = _ranges(limits, table, min(_SCRATCH, limits.max_range) // row_bytes)
    listed, targets = _labelled_rows(lowering, labels, chunks)
    if dh is not None:
        constants = {"COUNT": dh.type.size, "VALUE": 0.0}
        lowering.call("fill", groups_for(dh.type.size, 256, limits), constants, y=dh)
    terms = 1 if on_units else 0
    factors, counted = listed_factors(lowering, h, listed, terms)
    scales = {"spread": spread, "peak": peak}
    for k, (begin, columns) in enumerate(chunks):
        part, dz = rows_of(table, begin, columns), lowering.scratch(tensor(dtype, rows, columns))
        tile = logits_tile(limits, rows, columns, terms)
        lowering.call(
            loss_kernel("logits_grad", table, on_units),
            groups_for(tile.count(rows, columns), 1, limits),
            {**sizes_of(h, columns), "PITCH": pitch_of(h), **tile.constants, **counted},
            table=part,
            targets=rows_of(targets, k, 1),
            lse=lse,
            dz=dz,
            **scales,
            **listed,
            **factors,
        )
        if dh is not None:
            kernel = loss_kernel("rows_grad", table, on_units)
            each: dict[str, Value | Part] = {"dz": dz, "table": part, **listed}
            _add_rows(lowering, kernel, each | (scales if on_units else {}), dh, columns, terms)
        if dtable is not None:
            pair = {"dz": dz, "h": h, **listed}
            some = rows_of(dtable, begin, columns)
            tiled_product(lowering, "table_grad", (columns, rows, width), pair, some)


def _add_rows(
    lowering: Lowering,
    kernel: str,
    factors: Mapping[str, Value | Part],
    dh: Value,
    columns: int,
    terms: int,
) -> None:
    """Add to dh what the gradients of so many columns of the logits give."""
    rows, width = dh.type.shape
    tile = logits_tile(lowering.limits, rows, width, terms)
    groups = groups_for(tile.count(rows, width), 1, lowering.limits)
    constants = {**sizes_of(dh, columns), **tile.constants}
    lowering.call(kernel, groups, constants, **factors, dh=dh)


def listed_factors(
    lowering: Lowering, h: Value, listed: Mapping[str, Value | Part], terms: int, lines: int = 0
) -> tuple[dict[str, Value], dict[str, int]]:
    """What the logits are made of: h, or its listed rows as sums of so many terms of f16.

    These are in panels, or in so many lines.
    """
    if not terms:
        return {"h": h}, {}
    rows, width = h.type.shape
    high = lines or panels.padded(rows)
    halves = lowering.scratch(tensor("f16", terms, high, width))
    power = lowering.scratch(tensor("f32", rows))
    constants = {"ROWS": rows, "WIDTH": width, "TERMS": terms, "HIGH": high}
    groups = groups_for(rows, 1, lowering.limits)
    kernel = f"listed_halves{'+lines' * bool(lines)}"
    lowering.call(kernel, groups, constants, h=h, **listed, power=power, halves=halves)
    return {"h": halves, "power": power}, {"TERMS": terms, "HIGH": high}


def _labelled_rows(
    lowering: Lowering, labels: Value, ranges: list[tuple[int, int]]
) -> tuple[dict[str, Value], Value]:
    """The list of rows that have a label, and for each range of the table its labels' places."""
    count = labels.type.shape[0]
    pitch = pitch_of(labels)
    sizes = {"ROWS": count, "PARTS": len(ranges), "PART": ranges[0][1], "PITCH": pitch}
    listed = {
        "rows": lowering.scratch(tensor("u32", count)),
        "count": lowering.scratch(tensor("u32", 1)),
    }
    targets = lowering.scratch(tensor("i32", len(ranges), pitch))
    lowering.call("labelled_rows", (1, 1, 1), sizes, labels=labels, **listed, targets=targets)
    return listed, targets


def _ranges(limits: Limits, table: Value, most: int) -> list[tuple[int, int]]:
    """Ranges of so many rows of the table at most, or some more if `most` is small."""
    row = table.type.nbytes // table.type.shape[0]
    most = min(max(most, UNIT), limits.max_range // row)
    most = most // UNIT * UNIT or most
    return row_ranges(replace(limits, max_range=most * row), table)


def loss_kernel(name: str, table: Value, on_units: bool) -> str:
    """The kernel of that name for a table of this type, or the one for matrix units."""
    if on_units:
        return f"{name}_cm"
    return f"{name}_f16" if table.type.dtype is DType.F16 else f"{name}_f32"


def sizes_of(h: Value, columns: int) -> dict[str, int]:
    """Constants that all kernels with h and so many rows of the table have."""
    rows, width = h.type.shape
    return {"ROWS": rows, "WIDTH": width, "COLUMNS": columns}


def pitch_of(h: Value) -> int:
    """Numbers for every row where there are several of them."""
    return math.ceil(h.type.shape[0] / PITCH) * PITCH


def _labelled_rows_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    labels, rows, count, targets = arrays(operands, "labels", "rows", "count", "targets")
    found = np.flatnonzero(labels >= 0)
    rows[: found.size] = found
    count[..., 0] = found.size
    if "PLACES" in constants:
        count[:, 1] = int(constants["PLACES"]) * np.arange(len(count))
    begins = int(constants["PART"]) * np.arange(targets.shape[0])
    targets[:, : labels.size] = labels - begins[:, None]


def _cross_entropy_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    rows, z, targets = _logits(operands, constants)
    (partial,) = arrays(operands, "partial")
    places, tile = np.arange(rows.size), int(constants["TILE_N"])
    for number, begin in enumerate(range(0, z.shape[1], tile)):
        some = z[:, begin : begin + tile]
        top = some.max(axis=1)
        total = np.exp(some - top[:, None]).sum(axis=1)
        column = targets - begin
        here = (column >= 0) & (column < some.shape[1])
        picked = np.where(here, some[places, np.where(here, column, 0)], 0)
        partial[number][:, places if "z" in operands else rows] = top, total, picked
    if "z" in operands:
        (kept,) = arrays(operands, "z")
        kept[: rows.size] = z


def _merge_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    labels, partial, nll, lse = arrays(operands, "labels", "partial", "nll", "lse")
    rows = np.flatnonzero(labels >= 0)
    tops, totals, picked = partial[:, :, rows].transpose(1, 0, 2)
    top = tops.max(axis=0)
    nll[...], lse[...] = 0, 0
    lse[rows] = np.log((totals * np.exp(tops - top)).sum(axis=0)) + top
    nll[rows] = lse[rows] - picked.sum(axis=0)


def _logits_grad_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    rows, z, targets = _logits(operands, constants)
    spread, peak, lse = (x[rows] for x in arrays(operands, "spread", "peak", "lse"))
    gradient = np.exp(z - lse[:, None]) * spread[:, None]
    hits = np.flatnonzero((targets >= 0) & (targets < z.shape[1]))
    gradient[hits, targets[hits]] -= peak[hits]
    (dz,) = arrays(operands, "dz")
    scale = 1 if dz.dtype == np.float32 else gradient_scale(operands)
    dz[: rows.size] = gradient / scale


def _rows_grad_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    if "y" in operands:
        _parted_meaning(constants, operands)
        return
    rows = listed_rows(operands)
    dz, table, dh = arrays(operands, "dz", "table", "dh")
    scale = 1 if dz.dtype == np.float32 else gradient_scale(operands)
    dh[rows] += dz[: rows.size].astype(np.float32) @ table.astype(np.float32) * scale


def _parted_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    dz, table, y = arrays(operands, "dz", "table", "y")
    dz = panels.from_panels(dz) if dz.dtype == np.float16 else dz
    listed = places_of(operands, constants)
    count = listed.stop - listed.start
    unit = _UNIT_DEPTH if dz.dtype == np.float16 else TILE_K
    part = math.ceil(len(table) / (len(y) * unit)) * unit
    for k, target in enumerate(y):
        some = slice(k * part, (k + 1) * part)
        target[:count] = dz[:count, some].astype(np.float32) @ table[some].astype(np.float32)


def _table_grad_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    dz, h, y = arrays(operands, "dz", "h", "y")
    rows, step = listed_rows(operands), part_of_inner(constants)
    for k, target in enumerate(y.reshape(-1, dz.shape[1], h.shape[1])):
        some = rows[k * step : (k + 1) * step]
        target[...] = dz[k * step : k * step + some.size].T @ h[some]


def gradient_scale(
    operands: Mapping[str, HostValue], constants: Mapping[str, int | float] | None = None
) -> Array:
    """What a listed row's gradient is divided by, as a column; see gradient_scale.glsl."""
    rows = listed_rows(operands, constants)
    spread, peak = (np.abs(x[rows]) for x in arrays(operands, "spread", "peak"))
    scale: Array = np.maximum(np.maximum(spread, peak), np.float32(1e-30))[:, None] / LARGEST
    return scale


def _logits(
    operands: Mapping[str, HostValue], constants: Mapping[str, int | float]
) -> tuple[Array, Array, Array]:
    """Listed rows, their logits for this part of the table, and the columns of their labels."""
    rows = listed_rows(operands, constants)
    h, table, targets = arrays(operands, "h", "table", "targets")
    if "power" in operands:
        (power,) = arrays(operands, "power")
        terms = np.stack([panels.from_panels(term) for term in h])
        halves = terms[:, places_of(operands, constants)].astype(np.float32)
        listed = halves.sum(axis=0) * power[rows, None]
    else:
        listed = h[rows]
    return rows, listed @ table.astype(np.float32).T, targets.reshape(-1)[rows]


def _listed_halves_meaning(
    into: Callable[[Array], Array],
    constants: Mapping[str, int | float],
    operands: Mapping[str, HostValue],
) -> None:
    rows = listed_rows(operands)
    h, power, halves = arrays(operands, "h", "power", "halves")
    power[rows] = row_powers(h[rows])
    rest = h[rows] / power[rows, None]
    for term in halves:
        whole = np.zeros_like(term)
        whole[: rows.size] = rest
        term[...] = into(whole)
        rest = rest - whole[: rows.size].astype(np.float32)


def listed_rows(
    operands: Mapping[str, HostValue], constants: Mapping[str, int | float] | None = None
) -> Array:
    """The rows that a kernel treats: all that are listed, or PLACES of them if it has those."""
    (rows,) = arrays(operands, "rows")
    return rows[places_of(operands, constants or {})]


def places_of(operands: Mapping[str, HostValue], constants: Mapping[str, int | float]) -> slice:
    """The places of these rows in the list."""
    (count,) = arrays(operands, "count")
    if "PLACES" not in constants:
        return slice(0, int(count[0]))
    first = int(count[1])
    return slice(first, max(first, min(int(count[0]), first + int(constants["PLACES"]))))


def _for_all(name: str, meaning: Meaning) -> dict[str, Meaning]:
    """A meaning that does not depend on the element type of the table, nor on matrix units."""
    return {f"{name}_{kind}": meaning for kind in ("f16", "f32", "cm")}


RULES: dict[str, Rule] = {
    "linear_cross_entropy": _loss,
    "linear_cross_entropy_grad": _loss_grad,
    "linear_cross_entropy_table_grad": _table_grad,
    fused_rule("loss_gradients"): _both_gradients,
}
MEANINGS: dict[str, Meaning] = {
    "labelled_rows": _labelled_rows_meaning,
    "listed_halves": partial(_listed_halves_meaning, panels.into_panels),
    "listed_halves+lines": partial(_listed_halves_meaning, np.array),
    "cross_entropy_merge": _merge_meaning,
    "table_grad": _table_grad_meaning,
    **_for_all("cross_entropy", _cross_entropy_meaning),
    **_for_all("logits_grad", _logits_grad_meaning),
    **_for_all("rows_grad", _rows_grad_meaning),
}
