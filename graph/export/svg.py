"""A graph as a picture: closed layers, and those that are asked for opened."""

from collections import Counter
from collections.abc import Sequence

from ..sizes import binary_size
from .drawing import Drawing
from .groups import Group, broad_values, group_nodes, members_of, open_scopes
from .layout import Box, lay_out
from .lines import lines_of
from .view import Category, View, saved_bytes, shares_of, short_name, title_of

_MARGIN = 32
_TOP = 96
_LETTERS = 26


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
    count = f"{len(view.graph.nodes):,} nodes, {binary_size(sum(saved_bytes(view).values()))} saved"
    if broad := broad_values(view):
        count += f"; not drawn, as it is read nearly everywhere: {', '.join(broad)}"
    drawing.text(_MARGIN, 34, f"{view.graph.name}: {view.stage}", "strong")
    drawing.text(_MARGIN, 54, count, "faint")
    drawing.legend(_MARGIN, 78, set(view.categories))
    drawing.move(_MARGIN, _TOP)
    for phase, x, column in layout.columns:
        drawing.text(x + column / 2, 12, str(phase), "faint", "middle")
    for box in layout.boxes:
        if box.open:
            _draw_frame(drawing, box)
    for line in lines_of(view, layout):
        style = f"edge {line.category}" if line.category else "edge"
        tip = f"{_few(line.names)} ({binary_size(line.bytes)})"
        drawing.add("path", {"class": style, "d": line.path, "stroke-width": 1.4}, tip=tip)
    for box in layout.boxes:
        if not box.open:
            _draw_card(drawing, view, box)
    return drawing.finish()


def _draw_frame(drawing: Drawing, box: Box) -> None:
    assert isinstance(box.item, Group)
    drawing.rect(box.x, box.y, box.width, box.height, "inner", rx="8")
    drawing.text(box.x + 12, box.y + 18, _title(box.item), "strong")


def _draw_card(drawing: Drawing, view: View, box: Box) -> None:
    if isinstance(box.item, Group):
        members = list(members_of(box.item))
        counts = Counter(c for k in members for c in shares_of(view, k))
        title = _title(box.item)
        lines = [f"{len(members):,} nodes", f"{binary_size(_results_bytes(view, members))} made"]
        tip = f"{title}: " + ", ".join(f"{n} {c}" for c, n in counts.items())
    else:
        node = view.graph.nodes[box.item]
        counts = Counter(shares_of(view, box.item))
        title, (result, *_) = title_of(node), node.outputs
        lines = [short_name(node), f"{result.type}, {binary_size(result.type.nbytes)}"]
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


def _results_bytes(view: View, members: Sequence[int]) -> int:
    return sum(v.type.nbytes for k in members for v in view.graph.nodes[k].outputs)


def _few(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"
