"""How matrix products are cut into workgroups."""

import math
from dataclasses import dataclass

from ..limits import Limits
from .calls import groups_for

TILE_K = 16
"""Values of the inner axis that tile.glsl takes at once."""
WORKGROUP = 128
"""Threads of a matrix-vector kernel."""

_GROUPS_WANTED = 256
"""Workgroups that keep a large device busy."""
_UNIT_GROUPS_WANTED = 128
"""The same for matrix units, whose tiles are worth more the larger they are."""
_INNER_WANTED = 128
"""Inner length that makes a part worth its second stage."""
_INNER_OF_LARGE = 256
"""The same for parts of a large tile."""
_LANES = (32, 16, 8, 4, 2, 1)
SUBGROUP = 32
"""Threads of a subgroup for which the tiles of matrix units are cut."""
MOST_RANK = 16
"""Rank of an adapter whose part can be for matrix units: one step of theirs."""


@dataclass(frozen=True)
class Tile:
    """What a workgroup computes, and its constants.

    Attributes:
        rows, columns: of the result.
        inside: what a thread or a subgroup has of them, by the names of the constants.
        threads: of the workgroup.
        resident: workgroups that a core runs at a time.
    """

    rows: int
    columns: int
    inside: tuple[tuple[str, int], ...]
    threads: int
    resident: int = 2

    @property
    def constants(self) -> dict[str, int]:
        """The specialization constants."""
        sizes = {"TILE_M": self.rows, "TILE_N": self.columns, "WORKGROUP": self.threads}
        return {**sizes, **dict(self.inside)}

    @property
    def strips(self) -> int:
        """Workgroups that finish a tile of units.glsl, 16 x 32 sums a subgroup (share.glsl)."""
        return self.rows * self.columns // (16 * self.threads)

    def count(self, rows: int, columns: int) -> int:
        """Tiles of a matrix."""
        return math.ceil(rows / self.rows) * math.ceil(columns / self.columns)

    def fits(self, limits: Limits) -> bool:
        """Whether a device has the shared memory for it, as a tile of units.glsl.

        That is twice 32 + 16 bytes for each row and column.
        """
        return 96 * (self.rows + self.columns) <= limits.shared_memory


def plain_tile(rows: int, columns: int, quads_m: int = 1, quads_n: int = 1) -> Tile:
    """A tile for tile.glsl, of squares of 4 x 4 sums."""
    threads = rows * columns // (16 * quads_m * quads_n)
    return Tile(rows, columns, (("QUADS_M", quads_m), ("QUADS_N", quads_n)), threads)


def units_tile(rows: int, columns: int, warp_m: int, warp_n: int) -> Tile:
    """A tile for units.glsl, of subgroups with so many sums each."""
    inside = (("WARP_M", warp_m), ("WARP_N", warp_n), ("SUBGROUP_SIZE", SUBGROUP))
    return Tile(rows, columns, inside, rows // warp_m * (columns // warp_n) * SUBGROUP)


UNIT_TILES = (units_tile(128, 128, 64, 64), units_tile(64, 128, 32, 32))
"""The tiles for matrix units, the largest first."""
LARGE_TILE = Tile(128, 256, (), 256, resident=1)
"""The tile of matrices as large as a workgroup; others are slower (docs/performance-notes.md)."""


def tile_for(rows: int, columns: int, inner: int) -> Tile:
    """A tile for a product of that size: as narrow as the product, small where tiles are few.

    A long inner axis makes up for tiles, as it is split (`parts_for`).
    """
    if rows <= 16:
        return plain_tile(16, 128)
    if columns <= 16:
        return plain_tile(128, 16)
    if rows <= 32:
        return plain_tile(32, 128, 1, 2)
    if columns <= 32:
        return plain_tile(128, 32, 2, 1)
    large = plain_tile(128, 64, 2, 1)
    parts = max(1, inner // _INNER_OF_LARGE)
    busy = rows > 64 and large.count(rows, columns) * parts >= _GROUPS_WANTED
    return large if busy else plain_tile(64, 64)


def unit_tile_for(rows: int, columns: int, limits: Limits, inner: int = 1) -> Tile | None:
    """A tile for matrix units, the large one if it keeps the device busy; None if none fits.

    The inner axis only counts where it is split (`parts_for`).
    """
    fitting = [tile for tile in UNIT_TILES if tile.fits(limits)]
    if limits.subgroup != SUBGROUP or not fitting:
        return None
    parts = max(1, inner // _INNER_OF_LARGE)
    busy = (t for t in fitting if t.count(rows, columns) * parts >= _UNIT_GROUPS_WANTED)
    return next(busy, fitting[-1])


def parts_for(tiles: int, inner: int) -> int:
    """Into how many parts the inner axis is split, so that there is enough to do at once."""
    return max(1, min(_GROUPS_WANTED // tiles, inner // _INNER_WANTED))


def lanes_for(loads: int, sums: int, limits: Limits) -> tuple[dict[str, int], tuple[int, int, int]]:
    """Constants and groups of a kernel with lanes.glsl, for sums of so many loads each.

    As many threads share a sum as can without a fifth of them being idle.
    """
    lanes = next(n for n in _LANES if loads >= 0.8 * n * math.ceil(loads / n))
    constants = {"LANES": lanes, "WORKGROUP": WORKGROUP}
    return constants, groups_for(sums, WORKGROUP // lanes, limits)
