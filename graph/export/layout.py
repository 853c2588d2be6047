"""Coordinates: from groups and what is open to boxes and lines.

A column for each phase, a row for each scope of the first level; so a layer's backward pass stands
beside its forward pass, and runs upwards. The page's script (page/layout.js) follows the same
rules, and a test compares the two.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from .groups import Group
from .view import Phase

METRICS = {
    "width": 190,  # of a node or a closed group
    "height": 60,
    "bend": 14,  # room for a line that passes between boxes
    "gap": 18,  # between boxes of a row
    "rise": 34,  # between rows
    "pad": 16,  # around what is in an open group
    "head": 26,  # its title
    "aisle": 110,  # between columns
    "sweeps": 6,
}
"""Lengths in pixels."""

Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A node or a group at its place.

    Attributes:
        item: the position of a node, or a group.
        open: whether it is a group whose children are drawn.
        x, y: of its upper left corner.
    """

    item: int | Group
    open: bool
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    """All boxes, outer ones first, and the bends of lines between boxes of one group.

    Lines are named by the keys of their ends (`key_of`).
    """

    boxes: tuple[Box, ...]
    bends: dict[tuple[str, str], tuple[Point, ...]]
    columns: tuple[tuple[Phase, float, float], ...]
    width: float
    height: float


def key_of(item: int | Group) -> str:
    """A name of a node or a group, unique in a picture."""
    return f"#{item}" if isinstance(item, int) else item.key


def lay_out(groups: Sequence[Group], opened: Collection[str]) -> Layout:
    """Place everything that is visible when the scopes in `opened` are open."""
    sizes = {group.key: _Sized(group, opened) for group in groups}
    rows = list(dict.fromkeys(group.scope for group in groups))
    phases = [phase for phase in Phase if any(group.phase is phase for group in groups)]
    boxes: list[Box] = []
    bends: dict[tuple[str, str], tuple[Point, ...]] = {}
    tops, y = {}, float(METRICS["head"])
    for scope in rows:
        height = max(sizes[g.key].height for g in groups if g.scope == scope)
        tops[scope] = (y, height)
        y += height + METRICS["rise"]
    x = 0.0
    columns = []
    for phase in phases:
        column = [group for group in groups if group.phase is phase]
        width = max(sizes[group.key].width for group in column)
        for group in column:
            sized, (top, height) = sizes[group.key], tops[group.scope]
            left, upper = x + (width - sized.width) / 2, top + (height - sized.height) / 2
            sized.put(left, upper, boxes, bends)
        columns.append((phase, x, width))
        x += width + METRICS["aisle"]
    return Layout(tuple(boxes), bends, tuple(columns), x - METRICS["aisle"], y - METRICS["rise"])


class _Sized:
    """A node or a group, with the places of its children inside it if it is open."""

    def __init__(self, item: int | Group, opened: Collection[str]) -> None:
        self.item = item
        self.width, self.height = float(METRICS["width"]), float(METRICS["height"])
        self.open = isinstance(item, Group) and item.scope in opened
        if isinstance(item, Group) and self.open:
            self._fill(item, opened)

    def _fill(self, group: Group, opened: Collection[str]) -> None:
        self.children = [_Sized(child, opened) for child in group.children]
        lefts = row_lefts(group, [child.width for child in self.children])
        pad, y = METRICS["pad"], float(METRICS["head"] + METRICS["pad"])
        upwards = group.phase is Phase.BACKWARD
        self.places: dict[int, Point] = {}
        self.turns: dict[int, list[Point]] = {}
        right = 0.0
        numbered = list(enumerate(group.rows))
        for k, row in reversed(numbered) if upwards else numbered:
            height = max((self.children[slot].height for slot in row if slot >= 0), default=0.0)
            for slot, left in zip(row, lefts[k], strict=True):
                if slot < 0:
                    turn = (left + pad + METRICS["bend"] / 2, y + height / 2)
                    self.turns.setdefault(-1 - slot, []).append(turn)
                    right = max(right, left + METRICS["bend"])
                else:
                    child = self.children[slot]
                    self.places[slot] = (left + pad, y + (height - child.height) / 2)
                    right = max(right, left + child.width)
            y += height + METRICS["rise"]
        self.width = max(right + 2 * pad, self.width)
        self.height = y - METRICS["rise"] + pad

    def put(
        self, x: float, y: float, boxes: list[Box], bends: dict[tuple[str, str], tuple[Point, ...]]
    ) -> None:
        """Add this and what is in it at a place."""
        boxes.append(Box(self.item, self.open, x, y, self.width, self.height))
        if not isinstance(self.item, Group) or not self.open:
            return
        for slot, (left, top) in self.places.items():
            self.children[slot].put(x + left, y + top, boxes, bends)
        for k, turns in self.turns.items():
            a, b = (key_of(self.item.children[end]) for end in self.item.links[k])
            points = [(x + left, y + top) for left, top in turns]
            down = self.item.phase is not Phase.BACKWARD
            bends[a, b] = tuple(points if down else points[::-1])


def row_lefts(group: Group, widths: Sequence[float]) -> list[list[float]]:
    """Left edges of the slots of every row, drawn towards their neighbours in other rows."""
    sizes = [[widths[s] if s >= 0 else float(METRICS["bend"]) for s in row] for row in group.rows]
    centers = [_spread([0.0] * len(row), row) for row in sizes]
    above = _neighbours(group)
    below: list[list[list[int]]] = [[[] for _ in row] for row in group.rows]
    for k, row in enumerate(above[1:], 1):
        for place, others in enumerate(row):
            for other in others:
                below[k - 1][other].append(place)
    last = len(sizes) - 1
    for sweep in range(METRICS["sweeps"]):
        up = bool(sweep % 2)
        for k in range(last - 1, -1, -1) if up else range(1, last + 1):
            fixed, near = (centers[k + 1], below[k]) if up else (centers[k - 1], above[k])
            wanted = [
                sum(fixed[other] for other in others) / len(others) if others else center
                for others, center in zip(near, centers[k], strict=True)
            ]
            centers[k] = _spread(wanted, sizes[k])
    lefts = [
        [center - size / 2 for center, size in zip(*pair, strict=True)]
        for pair in zip(centers, sizes, strict=True)
    ]
    leftmost = min((row[0] for row in lefts), default=0.0)
    return [[left - leftmost for left in row] for row in lefts]


def _neighbours(group: Group) -> list[list[list[int]]]:
    """For every slot the places of its neighbours in the row above."""
    places = [{slot: place for place, slot in enumerate(row)} for row in group.rows]
    sources: dict[int, list[int]] = {}
    for k, (a, b) in enumerate(group.links):
        sources.setdefault(b, []).extend((a, -1 - k))
        sources.setdefault(-1 - k, []).extend((a, -1 - k))
    result: list[list[list[int]]] = [[[] for _ in row] for row in group.rows[:1]]
    for above, row in zip(places, group.rows[1:], strict=False):
        result.append([[above[s] for s in sources.get(slot, ()) if s in above] for slot in row])
    return result


def _spread(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Centers near the wanted ones, in order and without overlap.

    The mean of pushing all to the right and pushing all to the left, both of which do not overlap.
    """
    right, left = list(wanted), list(wanted)
    steps = [(a + b) / 2 + METRICS["gap"] for a, b in pairwise(sizes)]
    for k, step in enumerate(steps):
        right[k + 1] = max(right[k + 1], right[k] + step)
    for k in range(len(steps) - 1, -1, -1):
        left[k] = min(left[k], left[k + 1] - steps[k])
    return [(a + b) / 2 for a, b in zip(right, left, strict=True)]
