"""A graph as a picture: closed layers, and those that are asked for opened."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..types import GraphError
from .drawing import Drawing
from .groups import Group, broad_values, group_nodes, scopes
from .layout import METRICS, Box, Layout, Point, key_of, lay_out
from .style import size_text
from .view import Category, Phase, View, saved_bytes, short_name, title_of

_MARGIN = 32
_TOP = 96
_LETTERS = 28
_FAR = 3 * METRICS["height"]


def write_svg(view: View, opened: Sequence[str] = ()) -> bytes:
    """Draw a graph with some scopes open.

    Args:
        view: what to draw.
        opened: scopes whose contents are shown; those around them are opened too.

    Raises:
        GraphError: there is no such scope.
    """
    groups = group_nodes(view)
    layout = lay_out(groups, open_scopes(groups, opened))
    width = max(layout.width, 620) + 2 * _MARGIN
    drawing = Drawing(width, layout.height + _TOP + _MARGIN, f"{view.graph.name}, {view.stage}")
    count = f"{len(view.graph.nodes):,} nodes, {size_text(sum(saved_bytes(view).values()))} saved"
    if broad := broad_values(view):
        count += f"; not drawn, as it is read nearly everywhere: {', '.join(broad)}"
    drawing.text(_MARGIN, 34, f"{view.graph.name}: {view.stage}", "strong")
    drawing.text(_MARGIN, 54, count, "faint")
    drawing.legend(_MARGIN, 78, set(view.categories))
    shifted = _shift(layout, _MARGIN, _TOP)
    for phase, x, column in shifted.columns:
        drawing.text(x + column / 2, _TOP + 12, str(phase), "faint", "middle")
    boxes = {key_of(box.item): box for box in shifted.boxes}
    for box in shifted.boxes:
        if box.open:
            _draw_frame(drawing, box)
    for line in _lines(view, shifted, boxes):
        drawing.add(
            "path", {"class": line.style, "d": line.path, "stroke-width": 1.4}, "", line.tip
        )
    for box in shifted.boxes:
        if not box.open:
            _draw_card(drawing, view, box)
    return drawing.finish()


def open_scopes(groups: Sequence[Group], wanted: Sequence[str]) -> set[str]:
    """Wanted scopes and those around them.

    Raises:
        GraphError: there is no such scope.
    """
    known = scopes(groups)
    for scope in wanted:
        if scope not in known:
            tops = ", ".join(dict.fromkeys(group.scope for group in groups if group.scope))
            raise GraphError(f"there is no scope '{scope}' to open; the outer ones are {tops}")
    parts = [scope.split("/") for scope in wanted]
    return {"/".join(names[: k + 1]) for names in parts for k in range(len(names))}


def _shift(layout: Layout, x: float, y: float) -> Layout:
    boxes = tuple(Box(b.item, b.open, b.x + x, b.y + y, b.width, b.height) for b in layout.boxes)
    bends = {ends: tuple((px + x, py + y) for px, py in p) for ends, p in layout.bends.items()}
    columns = tuple((phase, left + x, width) for phase, left, width in layout.columns)
    return Layout(boxes, bends, columns, layout.width, layout.height)


def _draw_frame(drawing: Drawing, box: Box) -> None:
    assert isinstance(box.item, Group)
    drawing.rect(box.x, box.y, box.width, box.height, "inner", rx="8")
    drawing.text(box.x + 12, box.y + 18, _title(box.item), "strong")


def _draw_card(drawing: Drawing, view: View, box: Box) -> None:
    if isinstance(box.item, Group):
        members = list(members_of(box.item))
        counts = Counter(view.categories[k] for k in members)
        title = _title(box.item)
        lines = [f"{len(members):,} nodes", f"{size_text(results_bytes(view, members))} made"]
        tip = f"{title}: " + ", ".join(f"{n} {c}" for c, n in counts.items())
    else:
        node = view.graph.nodes[box.item]
        counts = Counter([view.categories[box.item]])
        title, (result, *_) = title_of(node), node.outputs
        lines = [short_name(node), f"{result.type}, {size_text(result.type.nbytes)}"]
        tip = f"{', '.join(map(str, node.outputs))}\n{node.scope}"
    drawing.rect(box.x, box.y, box.width, box.height, "card", tip, rx="6")
    y = box.y + 5
    for category in Category:
        share = counts[category] / sum(counts.values()) * (box.height - 10)
        if share:
            drawing.rect(box.x + 5, y, 4, share, str(category), rx="2")
            y += share
    drawing.text(box.x + 18, box.y + 20, _short(title), "strong")
    for k, line in enumerate(lines):
        drawing.text(box.x + 18, box.y + 36 + 15 * k, _short(line), "faint")


def _title(group: Group) -> str:
    return group.scope.rsplit("/", 1)[-1] or "no scope"


def results_bytes(view: View, members: Sequence[int]) -> int:
    """Bytes of all that some nodes make."""
    return sum(v.type.nbytes for k in members for v in view.graph.nodes[k].outputs)


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def members_of(group: Group) -> Iterator[int]:
    """Positions of all nodes in a group."""
    for child in group.children:
        if isinstance(child, Group):
            yield from members_of(child)
        else:
            yield child


@dataclass(frozen=True)
class _Line:
    path: str
    style: str
    tip: str


def _lines(view: View, layout: Layout, boxes: dict[str, Box]) -> Iterator[_Line]:
    """One line for all values that go from one visible box to another."""
    shown = _shown(layout)
    made = {v.name: k for k, node in enumerate(view.graph.nodes) for v in node.outputs}
    values: dict[tuple[str, str], dict[str, int]] = {}
    styles: dict[tuple[str, str], str] = {}
    broad = set(broad_values(view))
    for target, node in enumerate(view.graph.nodes):
        for value in node.inputs:
            if value.name not in made or value.name in broad:
                continue
            if shown[made[value.name]] == shown[target]:
                continue
            ends = shown[made[value.name]], shown[target]
            values.setdefault(ends, {})[value.name] = value.type.nbytes
            category = view.value_categories[value.name]
            across = view.phases[made[value.name]] is not view.phases[target]
            if across and category in (Category.SAVED, Category.RECOMPUTED):
                styles[ends] = f"edge {category}"
    for ends, sizes in values.items():
        names = ", ".join(list(sizes)[:4]) + (", …" if len(sizes) > 4 else "")
        style = styles.get(ends, "edge")
        a, b = (boxes[end] for end in ends)
        across = _phase(view, a) is not _phase(view, b)
        path = _path(a, b, layout.bends.get(ends, ()), across)
        yield _Line(path, style, f"{names} ({size_text(sum(sizes.values()))})")


def _phase(view: View, box: Box) -> Phase:
    return view.phases[box.item] if isinstance(box.item, int) else box.item.phase


def _shown(layout: Layout) -> dict[int, str]:
    """For every node the key of the box that stands for it."""
    shown: dict[int, str] = {}
    for box in layout.boxes:
        if isinstance(box.item, int):
            shown[box.item] = key_of(box.item)
        elif not box.open:
            shown.update(dict.fromkeys(members_of(box.item), box.item.key))
    return shown


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
