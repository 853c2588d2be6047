"""The report of a run: one page that needs nothing else."""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ...models.files import atomic_write, write_text
from .charts import Series, bar_chart, heat_map, line_chart, number_text, smooth
from .history import History, Record, read_history
from .picture import loss_picture

REPORT = "report.html"
PICTURE = "loss.png"

_FEW = 30
"""Steps up to which a smoothed line would say nothing."""


def write_report(folder: Path) -> bool:
    """Write the page and the picture of the run in a folder, if it has finished a step.

    Raises:
        BitgraphError: something cannot be read or written.
    """
    history = read_history(folder)
    if history is None:
        return False
    picture = loss_picture(history)
    write_text(folder / REPORT, report_page(history, str(folder)))
    with atomic_write(folder / PICTURE) as file:
        file.write(picture)
    return True


def report_page(history: History, name: str) -> str:
    """The page.

    Args:
        history: of the run.
        name: what the run is called.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files(__package__).joinpath("page.html").read_text()
    return environment.from_string(source).render(
        name=name,
        model=history.settings.get("model", ""),
        outcome=_outcome(history),
        figures=list(_figures(history)),
        charts=[(title, note, chart) for title, note, chart in _charts(history)],
        data=[_data_set(record) for record in history.data],
        samples=history.samples,
        sampled=history.samples[-1]["step"] if history.samples else 0,
        settings=[(key, _setting(value)) for key, value in history.settings.items()],
    )


def _outcome(history: History) -> str:
    done = history.steps[-1]["step"]
    if done == history.total:
        return f"all {done:,} steps"
    return f"ended behind step {done:,} of {history.total:,}"


def _figures(history: History) -> Iterator[tuple[str, str, str]]:
    """What the run came to: a name, a figure, and a word about it."""
    first, last = history.steps[0], history.steps[-1]
    yield "Loss", f"{_late_loss(history):.4f}", f"{first['loss']:.4f} in step {first['step']}"
    if history.evaluations:
        before, after = history.evaluations[0], history.evaluations[-1]
        best = min(history.evaluations, key=lambda each: each["loss"])
        word = f"{before['loss']:.4f} before"
        if best["step"] != after["step"]:
            word += f"; best {best['loss']:.4f} behind step {best['step']:,}"
        yield "Held out", f"{after['loss']:.4f}", word
    share = sum(s["tokens"] for s in history.steps) / sum(s["slots"] for s in history.steps)
    yield "Tokens/s", f"{history.tokens_per_second:,.0f}", f"{share:.0%} of what was computed"
    tokens = sum(step["tokens"] for step in history.steps)
    yield "Tokens", f"{tokens:,}", f"in {last['step'] - first['step'] + 1:,} steps"
    yield "Time", _duration(history.seconds), "in steps, without what is between them"


def _late_loss(history: History) -> float:
    """Mean of the last twentieth of the steps, one at least: a single step says little."""
    some = history.steps[-max(len(history.steps) // 20, 1) :]
    return float(sum(step["loss"] for step in some) / len(some))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"


def _charts(history: History) -> Iterator[tuple[str, str, str]]:
    """Title, note and SVG of each chart."""
    yield "Loss", "nats a token, before the step's update", line_chart(_losses(history), "Loss")
    rates = _points(history, "lr")
    yield "Learning rate", "", line_chart([Series("learning rate", "a", rates)], "Learning rate")
    norms = _points(history, "grad_norm")
    lines = _with_smoothed("gradient norm", norms)
    yield (
        "Gradient norm",
        "of all that is trained, before clipping",
        line_chart(lines, "Gradient norm"),
    )
    rows = [step.get("layer_norms") or () for step in history.steps]
    if rows[0] and len({len(row) for row in rows}) == 1:
        steps = [step["step"] for step in history.steps]
        flat = [value for row in rows for value in row]
        note = f"{number_text(min(flat))} (faint) to {number_text(max(flat))} (strong), logarithmic"
        chart = heat_map(rows, steps, "Gradient norm of each layer over steps")
        yield "Gradient norm by layer", note, chart
    for record in history.data:
        bars = record["statistics"]["histogram"]
        note = f"tokens of an example, {record['role']}"
        yield "Lengths", note, bar_chart([*map(tuple, bars)], f"Lengths, {record['role']}")


def _losses(history: History) -> list[Series]:
    lines = _with_smoothed("loss", _points(history, "loss"))
    if history.evaluations:
        held_out = [(each["step"], each["loss"]) for each in history.evaluations]
        lines.append(Series("held out", "b", held_out, dots=True))
    return lines


def _with_smoothed(name: str, points: list[tuple[float, float]]) -> list[Series]:
    """A line, and where it has many points a faint one below it that has them all."""
    if len(points) <= _FEW:
        return [Series(name, "a", points)]
    return [Series(name, "a faint", points), Series(f"{name} (smoothed)", "a", smooth(points))]


def _points(history: History, field: str) -> list[tuple[float, float]]:
    return [(step["step"], step[field]) for step in history.steps]


def _data_set(record: Record) -> Mapping[str, Any]:
    """A set of examples, for the table."""
    statistics, counts = record["statistics"], record["counts"]
    percentiles = {int(key): value for key, value in statistics["percentiles"].items()}
    return {
        "role": record["role"],
        "file": record["file"],
        "form": ", ".join(filter(None, (record["format"], record["template"]))),
        "examples": statistics["examples"],
        "tokens": statistics["tokens"],
        "share": statistics["trained"] / statistics["tokens"],
        "lengths": f"{percentiles[0]:,} / {percentiles[50]:,} / {percentiles[100]:,}",
        "losses": ", ".join(
            f"{count:,} {name}" for name, count in counts.items() if count and name != "records"
        ),
        "records": counts["records"],
    }


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)
