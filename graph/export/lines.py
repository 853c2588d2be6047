"""Lines between boxes: which values they stand for, and the way they take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..ir import Value
from .groups import broad_values, members_of
from .layout import METRICS, Box, Layout, Point, key_of
from .view import Category, Phase, View

_FAR = 3 * METRICS["height"]


@dataclass(frozen=True)
class Line:
    """All values that go from one visible box to another.

    Attributes:
        path: in the language of SVG paths.
        category: SAVED or RECOMPUTED if such a value goes to another phase.
        names: of the values.
        bytes: of all of them.
    """

    path: str
    category: Category | None
    names: tuple[str, ...]
    bytes: int


def lines_of(view: View, layout: Layout) -> Iterator[Line]:
    """The lines of a picture; values that are read nearly everywhere have none."""
    boxes = {key_of(box.item): box for box in layout.boxes}
    for ends, values in _values_between(view, layout).items():
        a, b = (boxes[end] for end in ends)
        across = _phase(view, a) is not _phase(view, b)
        path = _path(a, b, layout.bends.get(ends, ()), across)
        category = _category(view, values) if across else None
        names, sizes = (tuple(v.name for v in values), [v.type.nbytes for v in values])
        yield Line(path, category, names, sum(sizes))


def _values_between(view: View, layout: Layout) -> dict[tuple[str, str], dict[Value, None]]:
    shown = _shown(layout)
    made = {v.name: shown[k] for k, node in enumerate(view.graph.nodes) for v in node.outputs}
    for name in broad_values(view):
        del made[name]
    between: dict[tuple[str, str], dict[Value, None]] = {}
    for target, node in enumerate(view.graph.nodes):
        for value in node.inputs:
            if made.get(value.name, shown[target]) != shown[target]:
                between.setdefault((made[value.name], shown[target]), {})[value] = None
    return between


def _shown(layout: Layout) -> dict[int, str]:
    """For every node the key of the box that stands for it."""
    shown: dict[int, str] = {}
    for box in layout.boxes:
        if isinstance(box.item, int):
            shown[box.item] = key_of(box.item)
        elif not box.open:
            shown.update(dict.fromkeys(members_of(box.item), box.item.key))
    return shown


def _category(view: View, values: dict[Value, None]) -> Category | None:
    found = {view.value_categories[value.name] for value in values}
    return next((c for c in (Category.SAVED, Category.RECOMPUTED) if c in found), None)


def _phase(view: View, box: Box) -> Phase:
    return view.phases[box.item] if isinstance(box.item, int) else box.item.phase


def _path(a: Box, b: Box, bends: Sequence[Point], across: bool) -> str:
    """A curve from box to box: downwards or upwards, sideways, or around what is between."""
    if across:
        return _sideways(a, b)
    down = a.y < b.y
    gap = b.y - a.y - a.height if down else a.y - b.y - b.height
    if not bends and gap > _FAR:
        return _around(a, b)
    start = (a.x + a.width / 2, a.y + a.height if down else a.y)
    end = (b.x + b.width / 2, b.y if down else b.y + b.height)
    points = [start, *bends, end]
    return f"M{_at(start)}" + "".join(
        f"C{_at((p[0], (p[1] + q[1]) / 2))} {_at((q[0], (p[1] + q[1]) / 2))} {_at(q)}"
        for p, q in pairwise(points)
    )


def _around(a: Box, b: Box) -> str:
    start, end = (a.x, _middle(a)), (b.x, _middle(b))
    turn = min(start[0], end[0]) - min(16 + abs(start[1] - end[1]) / 40, METRICS["aisle"] * 0.8)
    return f"M{_at(start)}C{_at((turn, start[1]))} {_at((turn, end[1]))} {_at(end)}"


def _sideways(a: Box, b: Box) -> str:
    right = a.x < b.x
    start = (a.x + a.width if right else a.x, _middle(a))
    end = (b.x if right else b.x + b.width, _middle(b))
    half = (start[0] + end[0]) / 2
    return f"M{_at(start)}C{_at((half, start[1]))} {_at((half, end[1]))} {_at(end)}"


def _middle(box: Box) -> float:
    return box.y + box.height / 2


def _at(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"
