"""How the tiles of a product on matrix units are shared out among a device's workgroups.

A device runs so many workgroups at a time, and tiles come in waves of as many. The last wave is
seldom full: 320 tiles on 264 places take as long as 528. So the last tiles are shared, each by
several workgroups that have a part of the inner axis each, and a second dispatch adds their sums up
(`shaders/share.glsl`; the idea is that of stream-K, Osama et al. 2023).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np

from ....graph.ir import Value
from ....graph.tensors import Array, HostValue
from ....graph.types import tensor
from ..limits import Limits
from .calls import Lowering, Meaning, Part, groups_for
from .meanings import arrays
from .tiles import UNIT_TILES, Tile, unit_tile_for

_MOST_PARTS = 16
_FEWEST_STEPS = 4
"""Steps along the inner axis that a part should have."""

# Costs are counted in steps of a wave of the large tile, which take 1.2 us on an H100.
_START = 3.0
"""Cost of a workgroup's begin and end."""
_FINISH = 4.0
"""Cost of the second dispatch."""
_TRAFFIC = 0.04
"""Cost of writing and reading the sums of one large tile."""
_STEP = {(128, 128): 1.0, (64, 128): 0.8, (128, 256): 0.75}
"""Cost of a step by the size of a tile."""
_LARGE = 128 * 128


@dataclass(frozen=True)
class Share:
    """The tiles of a product and who computes them.

    Attributes:
        tile: its size.
        whole: tiles that one workgroup each computes; they come first.
        rest: tiles that several share.
        parts: workgroups that share one.
    """

    tile: Tile
    whole: int
    rest: int = 0
    parts: int = 1

    @property
    def units(self) -> int:
        """Workgroups that share a tile with others."""
        return self.rest * self.parts


@cache  # layers are alike
def share_for(rows: int, columns: int, steps: int, limits: Limits) -> Share | None:
    """The share that costs least, for so many steps along the inner axis; None if no tile fits.

    Where the device does not say how many cores it has, every tile is whole.
    """
    plain = unit_tile_for(rows, columns, limits)
    if plain is None:
        return None
    fitting = [tile for tile in UNIT_TILES if tile.fits(limits)] if limits.cores else [plain]
    return least_share(rows, columns, steps, fitting, limits)


def least_share(
    rows: int, columns: int, steps: int, tiles: Sequence[Tile], limits: Limits
) -> Share:
    """The share of any of some tiles that costs least; see `share_for`."""
    shares = [
        share
        for tile in tiles
        for share in _shares(tile, tile.count(rows, columns), steps, limits.cores)
    ]
    return min(shares, key=lambda share: _cost(share, steps, limits.cores or 1))


def _shares(tile: Tile, tiles: int, steps: int, cores: int) -> Iterator[Share]:
    """Shares worth a thought: all tiles whole, or those of the last one or two waves shared."""
    yield Share(tile, tiles)
    if not cores:
        return
    places = tile.resident * cores
    full = tiles // places
    for waves in range(max(0, full - 1), full + 1):
        rest = tiles - waves * places
        for parts in range(2, min(_MOST_PARTS, steps // _FEWEST_STEPS) + 1):
            if rest:
                yield Share(tile, tiles - rest, rest, parts)


def _cost(share: Share, steps: int, cores: int) -> float:
    places, step = share.tile.resident * cores, _STEP[share.tile.rows, share.tile.columns]
    cost = math.ceil(share.whole / places) * (steps * step + _START)
    if share.rest:
        sums = share.units * share.tile.rows * share.tile.columns / _LARGE
        each = math.ceil(steps / share.parts) * step + _START
        cost += math.ceil(share.units / places) * each + _FINISH + _TRAFFIC * sums
    return cost


def call_shared(
    lowering: Lowering,
    kernel: str,
    share: Share,
    constants: Mapping[str, int],
    operands: Mapping[str, Value | Part],
    members: str = "",
    multiplying: str = "",
) -> None:
    """Add the call of a kernel with share.glsl, or the two calls.

    Args:
        lowering: gets the calls.
        kernel: its name, without the number of members.
        share: of its tiles.
        constants: those that the kernel has besides.
        operands: by name.
        members: what a kernel's name gets for them (`variants.with_members`).
        multiplying: options that are not for the second call, which only adds up.
    """
    sizes = {**constants, **share.tile.constants}
    groups = groups_for(share.whole + share.units, 1, lowering.limits)
    if not share.rest:
        lowering.call(f"{kernel}{multiplying}{members}", groups, sizes, **operands)
        return
    sizes |= {"WHOLE": share.whole, "PARTS": share.parts, "UNITS": share.units}
    parts = lowering.scratch(tensor("f32", share.units, share.tile.rows, share.tile.columns))
    name = f"{kernel}{multiplying}+shared{members}"
    lowering.call(name, groups, sizes, **operands, parts=parts)
    groups = groups_for(share.rest * share.tile.strips, 1, lowering.limits)
    lowering.call(f"{kernel}+rest{members}", groups, sizes, **operands, sums=parts)


Product: TypeAlias = Callable[[Mapping[str, int | float], Mapping[str, HostValue]], Array]
"""(constants, operands by name) -> a product before anything is added to it."""
Finish: TypeAlias = Callable[[Array, Mapping[str, int | float], Mapping[str, HostValue]], Array]
"""(product, constants, operands) -> what is written."""


def shared_meaning(product: Product, finish: Finish) -> Meaning:
    """The meaning of a kernel with share.glsl and of its two halves."""

    def meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        (y,) = arrays(operands, "y")
        whole, rest = places_of(constants, y)
        if "sums" in operands:
            (sums,) = arrays(operands, "sums")
            added = sums.reshape(-1, int(constants["PARTS"]), *sums.shape[1:]).sum(axis=1)
            total = np.zeros_like(y)
            for place, tile in zip(rest, added, strict=True):
                total[place] = tile[: total[place].shape[0], : total[place].shape[1]]
            mine = rest
        else:
            total, mine = product(constants, operands), whole
        if "parts" in operands:
            (parts,) = arrays(operands, "parts")
            parts[...] = 0
            for place, unit in zip(rest, parts[:: int(constants["PARTS"])], strict=True):
                unit[: total[place].shape[0], : total[place].shape[1]] = total[place]
        finished = finish(total, constants, operands)
        for place in mine:
            y[place] = finished[place]

    return meaning


Place: TypeAlias = tuple[slice, slice]


def places_of(constants: Mapping[str, int | float], y: Array) -> tuple[list[Place], list[Place]]:
    """Rows and columns of each tile in order, of those that are whole and of the rest."""
    high, wide = int(constants["TILE_M"]), int(constants["TILE_N"])
    places = [
        (slice(row, row + high), slice(column, column + wide))
        for row in range(0, y.shape[0], high)
        for column in range(0, y.shape[1], wide)
    ]
    whole = int(constants.get("WHOLE", len(places)))
    return places[:whole], places[whole:]
