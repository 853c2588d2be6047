"""Rules and meanings of the kernels for the family `loss`: the cross-entropy and its gradient.

Both work on the rows that have a label, and on some rows of the table at a time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ....graph.ir import Node, Value
from ....graph.tensors import Array, HostValue
from ....graph.types import DType, tensor
from ..limits import Limits
from .calls import Lowering, Meaning, Rule, groups_for, row_ranges, rows_of
from .meanings import arrays

_SCRATCH = 64 << 20
"""Bytes of logits that the gradient holds at a time."""
_FEWEST_COLUMNS = 128
"""Rows of the table that it takes at a time even if that needs more."""
_PITCH = 64
"""Numbers for every row are padded to a multiple where there are several of them, to be aligned."""
_WORKGROUPS_WANTED = 256
_TILE_K = 16
_THREADS = 256


@dataclass(frozen=True)
class _Tile:
    """What a workgroup computes; the constants are those of tile.glsl."""

    rows: int
    columns: int

    @property
    def constants(self) -> dict[str, int]:
        quads = self.rows // 64, self.columns // 64
        return {
            "TILE_M": self.rows,
            "TILE_N": self.columns,
            "QUADS_M": quads[0],
            "QUADS_N": quads[1],
            "WORKGROUP": _THREADS,
        }

    @property
    def shared_memory(self) -> int:
        """Bytes: both tiles, and two numbers for each row."""
        return 4 * _TILE_K * (self.rows + 4 + self.columns + 4) + 8 * self.rows

    def count(self, rows: int, columns: int) -> int:
        """Tiles of a matrix."""
        return math.ceil(rows / self.rows) * math.ceil(columns / self.columns)


_TILES = (_Tile(128, 128), _Tile(64, 128), _Tile(64, 64))


def _tile(limits: Limits, rows: int, columns: int) -> _Tile:
    """The largest tile that fits the device and leaves many workgroups something to do."""
    for tile in _TILES:
        enough = tile.count(rows, columns) >= _WORKGROUPS_WANTED
        if tile.shared_memory <= limits.shared_memory and enough and tile.rows <= rows:
            return tile
    return _TILES[-1]


def _loss(lowering: Lowering, node: Node) -> None:
    h, table, labels = node.inputs
    nll, lse = node.outputs
    rows = h.type.shape[0]
    tile = _tile(lowering.limits, rows, table.type.shape[0])
    ranges = row_ranges(lowering.limits, table)
    listed, targets = _labelled_rows(lowering, labels, ranges)
    pitch = _pitch(rows)
    tiles = [math.ceil(columns / tile.columns) for _, columns in ranges]
    partial = lowering.scratch(tensor("f32", sum(tiles), 3, pitch))
    for k, (begin, columns) in enumerate(ranges):
        lowering.call(
            _kernel("cross_entropy", table),
            groups_for(tile.count(rows, columns), 1, lowering.limits),
            {**_sizes(h, columns), **tile.constants, "TILES": tiles[k], "PITCH": pitch},
            h=h,
            table=rows_of(table, begin, columns),
            targets=rows_of(targets, k, 1),
            **listed,
            partial=rows_of(partial, sum(tiles[:k]), tiles[k]),
        )
    constants = {"ROWS": rows, "TILES": sum(tiles), "PITCH": pitch}
    groups = groups_for(rows, 16, lowering.limits)
    operands = {"labels": labels, "partial": partial, "nll": nll, "lse": lse}
    lowering.call("cross_entropy_merge", groups, constants, **operands)


def _loss_grad(lowering: Lowering, node: Node) -> None:
    spread, peak, h, table, labels, lse = node.inputs
    (dh,) = node.outputs
    rows, width = h.type.shape
    chunks = _chunks(lowering.limits, rows, table)
    listed, targets = _labelled_rows(lowering, labels, chunks)
    constants = {"COUNT": dh.type.size, "VALUE": 0.0}
    lowering.call("fill", groups_for(dh.type.size, 256, lowering.limits), constants, y=dh)
    for k, (begin, columns) in enumerate(chunks):
        part = rows_of(table, begin, columns)
        dz = lowering.scratch(tensor("f32", rows, columns))
        tile = _tile(lowering.limits, rows, columns)
        lowering.call(
            _kernel("logits_grad", table),
            groups_for(tile.count(rows, columns), 1, lowering.limits),
            {**_sizes(h, columns), **tile.constants, "PITCH": _pitch(rows)},
            h=h,
            table=part,
            targets=rows_of(targets, k, 1),
            spread=spread,
            peak=peak,
            lse=lse,
            dz=dz,
            **listed,
        )
        tile = _tile(lowering.limits, rows, width)
        lowering.call(
            _kernel("rows_grad", table),
            groups_for(tile.count(rows, width), 1, lowering.limits),
            {**_sizes(h, columns), **tile.constants},
            dz=dz,
            table=part,
            dh=dh,
            **listed,
        )


def _labelled_rows(
    lowering: Lowering, labels: Value, ranges: list[tuple[int, int]]
) -> tuple[dict[str, Value], Value]:
    """The list of rows that have a label, and for each range of the table its labels' places."""
    count = labels.type.shape[0]
    sizes = {"ROWS": count, "PARTS": len(ranges), "PART": ranges[0][1], "PITCH": _pitch(count)}
    listed = {
        "rows": lowering.scratch(tensor("u32", count)),
        "count": lowering.scratch(tensor("u32", 1)),
    }
    targets = lowering.scratch(tensor("i32", len(ranges), _pitch(count)))
    lowering.call("labelled_rows", (1, 1, 1), sizes, labels=labels, **listed, targets=targets)
    return listed, targets


def _chunks(limits: Limits, rows: int, table: Value) -> list[tuple[int, int]]:
    """Ranges of the table whose logits fit the scratch memory."""
    columns = max(min(_SCRATCH, limits.max_range) // (4 * rows), _FEWEST_COLUMNS)
    row_bytes = table.type.nbytes // table.type.shape[0]
    most = min(limits.max_range, columns * row_bytes)
    return row_ranges(replace(limits, max_range=most), table)


def _kernel(name: str, table: Value) -> str:
    return f"{name}_f16" if table.type.dtype is DType.F16 else f"{name}_f32"


def _sizes(h: Value, columns: int) -> dict[str, int]:
    rows, width = h.type.shape
    return {"ROWS": rows, "WIDTH": width, "COLUMNS": columns}


def _pitch(rows: int) -> int:
    return math.ceil(rows / _PITCH) * _PITCH


def _labelled_rows_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    labels, rows, count, targets = arrays(operands, "labels", "rows", "count", "targets")
    found = np.flatnonzero(labels >= 0)
    rows[: found.size], count[0] = found, found.size
    begins = int(constants["PART"]) * np.arange(targets.shape[0])
    targets[:, : labels.size] = labels - begins[:, None]


def _cross_entropy_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    rows, z, targets = _logits(operands)
    (partial,) = arrays(operands, "partial")
    places, tile = np.arange(rows.size), int(constants["TILE_N"])
    for number, begin in enumerate(range(0, z.shape[1], tile)):
        some = z[:, begin : begin + tile]
        top = some.max(axis=1)
        total = np.exp(some - top[:, None]).sum(axis=1)
        column = targets - begin
        here = (column >= 0) & (column < some.shape[1])
        picked = np.where(here, some[places, np.where(here, column, 0)], 0)
        partial[number][:, rows] = top, total, picked


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
    rows, z, targets = _logits(operands)
    spread, peak, lse = (x[rows] for x in arrays(operands, "spread", "peak", "lse"))
    gradient = np.exp(z - lse[:, None]) * spread[:, None]
    hits = np.flatnonzero((targets >= 0) & (targets < z.shape[1]))
    gradient[hits, targets[hits]] -= peak[hits]
    (dz,) = arrays(operands, "dz")
    dz[: rows.size] = gradient


def _rows_grad_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    rows = _listed(operands)
    dz, table, dh = arrays(operands, "dz", "table", "dh")
    dh[rows] += dz[: rows.size] @ table.astype(np.float32)


def _logits(operands: Mapping[str, HostValue]) -> tuple[Array, Array, Array]:
    """Listed rows, their logits for this part of the table, and the columns of their labels."""
    rows = _listed(operands)
    h, table, targets = arrays(operands, "h", "table", "targets")
    return rows, h[rows] @ table.astype(np.float32).T, targets.reshape(-1)[rows]


def _listed(operands: Mapping[str, HostValue]) -> Array:
    rows, count = arrays(operands, "rows", "count")
    return rows[: int(count[0])]


def _for_both(name: str, meaning: Meaning) -> dict[str, Meaning]:
    """A meaning that does not depend on the element type of the table."""
    return {f"{name}_f16": meaning, f"{name}_f32": meaning}


RULES: dict[str, Rule] = {
    "linear_cross_entropy": _loss,
    "linear_cross_entropy_grad": _loss_grad,
}
MEANINGS: dict[str, Meaning] = {
    "labelled_rows": _labelled_rows_meaning,
    "cross_entropy_merge": _merge_meaning,
    **_for_both("cross_entropy", _cross_entropy_meaning),
    **_for_both("logits_grad", _logits_grad_meaning),
    **_for_both("rows_grad", _rows_grad_meaning),
}
