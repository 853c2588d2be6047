"""Charts as SVG, to stand in a page whose style sheet gives them their colours."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

Point = tuple[float, float]

WIDTH, HEIGHT = 720, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 34
_MOST_POINTS = 400
_MOST_COLUMNS = 90
_TICKS = 5
_CELL = 14
"""Largest height of a row of a heat map."""
_FLOOR = 1e-30
"""Stands for zero on a logarithmic scale."""


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        name: for the legend and the readout.
        style: a class of the style sheet, as in ``a`` or ``a faint``.
        points: by rising x.
        dots: whether each point is marked.
    """

    name: str
    style: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True)
class _Scale:
    """From values to places."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)


def line_chart(series: Sequence[Series], label: str) -> str:
    """Lines over steps.

    Args:
        series: at least one, each with at least one point.
        label: of the chart, for who cannot see it.
    """
    drawn = [(each, thin_out(each.points)) for each in series]
    xs = [x for each in series for x, _ in each.points]
    ys = [y for _, points in drawn for _, y in points if math.isfinite(y)] or [0.0]
    y_ticks = ticks(min(ys), max(ys))
    across = _Scale(*_apart(min(xs), max(xs)), _LEFT, WIDTH - _RIGHT)
    up = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    parts = [*_y_axis(y_ticks, up), *_x_axis(min(xs), max(xs), across, HEIGHT - _BOTTOM)]
    for each, points in drawn:
        parts += _line(each, [(across(x), up(y)) for x, y in points if math.isfinite(y)])
    readout = [[each.name, [[x, across(x), y] for x, y in points]] for each, points in drawn]
    return _svg(HEIGHT, label, parts, escape(json.dumps(readout), quote=True))


def _line(series: Series, places: Sequence[Point]) -> Iterator[str]:
    joined = " ".join(f"{x},{y}" for x, y in places)
    yield f'<polyline class="line {series.style}" points="{joined}"/>'
    if series.dots or len(places) == 1:
        for x, y in places:
            yield f'<circle class="dot {series.style}" cx="{x}" cy="{y}" r="3.5"/>'


def heat_map(rows: Sequence[Sequence[float]], steps: Sequence[int], label: str) -> str:
    """A row for each layer over steps, the darker the larger, on a logarithmic scale.

    Args:
        rows: of each step a value for each layer.
        steps: their numbers.
        label: as of `line_chart`.
    """
    bins = list(_bins(len(steps), _MOST_COLUMNS))
    layers = len(rows[0])
    means = [
        [_mean([rows[k][layer] for k in range(*each)]) for each in bins] for layer in range(layers)
    ]
    logs = [[math.log10(max(value, _FLOOR)) for value in row] for row in means]
    low, high = _apart(*_ends(logs))
    height = min(_CELL, max(4, 420 // layers))
    top, width = 4, WIDTH - _RIGHT - _LEFT
    parts = []
    every = max(1, -(-layers // 16))
    for layer, (row, row_logs) in enumerate(zip(means, logs, strict=True)):
        y = top + layer * height
        if layer % every == 0:
            parts.append(_text(_LEFT - 8, y + height / 2 + 4, "end", str(layer)))
        for (first, last), value, log in zip(bins, row, row_logs, strict=True):
            x, right = (_LEFT + width * at / len(steps) for at in (first, last))
            share = 0.06 + 0.94 * (log - low) / (high - low)
            about = f"layer {layer}, {_span(steps[first], steps[last - 1])}: {value:.3g}"
            parts.append(
                f'<rect class="cell" x="{x:.1f}" y="{y}" width="{right - x + 0.2:.1f}" '
                f'height="{height}" fill-opacity="{share:.2f}"><title>{about}</title></rect>'
            )
    bottom = top + layers * height
    centre = width / len(steps) / 2
    across = _Scale(*_apart(steps[0], steps[-1]), _LEFT + centre, WIDTH - _RIGHT - centre)
    parts += _x_axis(steps[0], steps[-1], across, bottom)
    return _svg(bottom + _BOTTOM, label, parts)


def bar_chart(bars: Sequence[tuple[int, int, int]], label: str) -> str:
    """Counts of values from..to, as `LengthStatistics` has them."""
    y_ticks = ticks(0, max(count for *_, count in bars))
    up = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    width = (WIDTH - _RIGHT - _LEFT) / len(bars)
    parts = list(_y_axis(y_ticks, up))
    every = max(1, -(-len(bars) // 8))
    for number, (first, last, count) in enumerate(bars):
        x, y = _LEFT + number * width, up(count)
        parts.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{y}" width="{max(width - 2, 1):.1f}" '
            f'height="{HEIGHT - _BOTTOM - y:.1f}"><title>{first:,}-{last:,} tokens: {count:,}'
            "</title></rect>"
        )
        if number % every == 0:
            parts.append(_text(x, HEIGHT - _BOTTOM + 18, "middle", f"{first:,}"))
    return _svg(HEIGHT, label, parts)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose a range, at least two."""
    low, high = _apart(low, high)
    least = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(least))
    width = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= least * 0.999)
    first, last = math.floor(low / width + 1e-9), math.ceil(high / width - 1e-9)
    return [number * width for number in range(first, last + 1)]


def thin_out(points: Sequence[Point]) -> list[Point]:
    """At most so many points that a chart shows: means of neighbours."""
    return [
        (_mean([x for x, _ in some]), _mean([y for _, y in some])) if len(some) > 1 else some[0]
        for some in (points[first:last] for first, last in _bins(len(points), _MOST_POINTS))
    ]


def smooth(points: Sequence[Point]) -> list[Point]:
    """The exponential moving average over about a 20th of the points, without a bias at first."""
    keep = 1 - 1 / max(len(points) / 20, 1)
    total = weight = 0.0
    result = []
    for x, y in points:
        total, weight = keep * total + y, keep * weight + 1
        result.append((x, total / weight))
    return result


def _bins(count: int, most: int) -> Iterator[tuple[int, int]]:
    """Begins and ends of at most so many runs of about equal length."""
    number = min(count, most)
    return pairwise(count * k // number for k in range(number + 1))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ends(rows: Sequence[Sequence[float]]) -> tuple[float, float]:
    return min(map(min, rows)), max(map(max, rows))


def _apart(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    margin = abs(low) / 2 or 1.0
    return low - margin, high + margin


def _span(first: int, last: int) -> str:
    return f"step {first}" if first == last else f"steps {first}-{last}"


def number_text(value: float) -> str:
    """A number beside an axis, without what binary fractions add to it."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.6g}" if abs(value) < 1e3 else f"{value:,.0f}"


def _y_axis(values: Sequence[float], up: _Scale) -> Iterator[str]:
    for value in values:
        y = up(value)
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
        yield _text(_LEFT - 8, y + 4, "end", number_text(round(value, 12)))


def _x_axis(low: float, high: float, across: _Scale, bottom: float) -> Iterator[str]:
    inside = {round(x) for x in ticks(low, high) if low <= x <= high} or {round(low)}
    for x in sorted(inside):
        yield _text(across(x), bottom + 18, "middle", f"{x:,}")


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, label: str, parts: Sequence[str], readout: str = "") -> str:
    data = f' data-readout="{readout}"' if readout else ""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}"{data}>'
        + "".join(parts)
        + "</svg>"
    )
