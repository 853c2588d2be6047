"""Memory over a step: arena offsets against the position in the schedule."""

from dataclasses import dataclass

import numpy as np

from ..sizes import binary_size
from ..types import GraphError
from .drawing import Drawing
from .execution import Execution, Span
from .view import Category, View

_WIDTH, _HEIGHT = 1120, 560
_LEFT, _TOP, _BOTTOM = 92, 104, 60
_THINNEST = 0.2


def write_memory_svg(view: View) -> bytes:
    """Draw every value in an arena as a rectangle: bytes upwards, dispatches to the right.

    Raises:
        GraphError: the view has no planned execution.
    """
    execution = view.execution
    if execution is None:
        raise GraphError("memory over time is known only once a schedule is planned")
    drawing = Drawing(_LEFT + _WIDTH + 40, _TOP + _HEIGHT + _BOTTOM, f"{view.graph.name}, memory")
    scale = _Scale(max(len(execution.launches), 1), max(execution.arena_bytes, 1))
    live = execution.live_bytes()
    peak = int(np.argmax(live)) if live.size else 0
    most = int(live[peak]) if live.size else 0
    drawing.text(_LEFT, 34, f"{view.graph.name}: memory of a step", "strong")
    facts = (
        f"{binary_size(execution.arena_bytes)} in {len(execution.arenas)} arena(s); most alive at "
        f"once {binary_size(most)}, at dispatch {peak:,} of {len(execution.launches):,}"
    )
    drawing.text(_LEFT, 54, facts, "faint")
    drawing.legend(_LEFT, 80, {category_of_span(view, span) for span in execution.spans})
    drawing.rect(_LEFT, _TOP, _WIDTH, _HEIGHT, "card")
    floors = arena_floors(execution)
    for span in execution.spans:
        bottom = floors[span.range.buffer] + span.range.offset
        _draw_span(drawing, scale, span, bottom, category_of_span(view, span))
    _draw_axes(drawing, scale, floors)
    steps = (
        f"{scale.x(k):.1f},{scale.y(level):.1f} {scale.x(k + 1):.1f},{scale.y(level):.1f}"
        for k, level in enumerate(live.tolist())
    )
    drawing.add("polyline", {"class": "live", "points": " ".join(steps)})
    _draw_peak(drawing, scale.x(peak + 0.5), scale.y(most), f"peak {binary_size(most)}")
    return drawing.finish()


def category_of_span(view: View, span: Span) -> Category:
    """The category of what lies in a place; a kernel's scratch belongs to the kernel's phase."""
    found = {view.value_categories[name] for name in span.names if name in view.value_categories}
    if not found and view.execution is not None:
        result = view.execution.launches[span.begin].result
        found = {view.value_categories.get(result, Category.PLAIN)} - {Category.SAVED}
    longest = (Category.SAVED, Category.RECOMPUTED, Category.BACKWARD, Category.OPTIMIZER)
    return next((category for category in longest if category in found), Category.PLAIN)


def arena_floors(execution: Execution) -> dict[str, int]:
    """Where each arena begins when they are piled up."""
    floors, floor = {}, 0
    for name, size in execution.arenas:
        floors[name] = floor
        floor += size
    return floors


@dataclass(frozen=True)
class _Scale:
    """From dispatches and bytes to pixels."""

    dispatches: int
    bytes: int

    def x(self, position: float) -> float:
        return _LEFT + position * _WIDTH / self.dispatches

    def y(self, level: float) -> float:
        return _TOP + _HEIGHT - level * _HEIGHT / self.bytes


def _draw_span(
    drawing: Drawing, scale: _Scale, span: Span, bottom: int, category: Category
) -> None:
    left, top = scale.x(span.begin), scale.y(bottom + span.range.size)
    width = max(scale.x(span.end + 1) - left, _THINNEST)
    height = max(scale.y(bottom) - top, _THINNEST)
    tip = f"{span.title}: {binary_size(span.range.size)}, dispatches {span.begin} to {span.end}"
    drawing.rect(left, top, width, height, str(category), tip, opacity="0.75")


def _draw_axes(drawing: Drawing, scale: _Scale, floors: dict[str, int]) -> None:
    bottom = _TOP + _HEIGHT
    for k in range(5):
        level, position = scale.bytes * k / 4, scale.dispatches * k / 4
        drawing.text(_LEFT - 10, scale.y(level) + 4, binary_size(int(level)), "faint", "end")
        drawing.add("path", {"class": "axis", "d": f"M{_LEFT - 5},{scale.y(level):.1f}h5"})
        drawing.text(scale.x(position), bottom + 20, f"{position:,.0f}", "faint", "middle")
    for name, floor in floors.items():
        y = scale.y(floor)
        drawing.add("path", {"class": "axis", "d": f"M{_LEFT},{y:.1f}h{_WIDTH}"})
        drawing.text(_LEFT + _WIDTH - 6, y - 4, name, "faint", "end")
    drawing.text(_LEFT + _WIDTH / 2, bottom + 42, "dispatches, in order", "faint", "middle")


def _draw_peak(drawing: Drawing, x: float, y: float, text: str) -> None:
    drawing.add("circle", {"cx": x, "cy": y, "r": 4.0, "style": "fill:var(--text)"})
    left = x > _LEFT + _WIDTH / 2
    drawing.text(x - 8 if left else x + 8, y - 8, text, "strong", "end" if left else "start")
