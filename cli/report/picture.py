"""The loss curve as a PNG file."""

import io
import logging

from matplotlib.figure import Figure

from .charts import smooth
from .history import History

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would tell of its font cache

_INK, _GRID, _LOSS, _EVAL = "#1f2430", "#dfe3ea", "#2f6fde", "#d9730d"


def loss_picture(history: History) -> bytes:
    """The losses of a run over its steps."""
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    points = [(step["step"], step["loss"]) for step in history.steps]
    steps, losses = zip(*points, strict=True)
    axes.plot(steps, losses, color=_LOSS, alpha=0.3, linewidth=1)
    axes.plot(*zip(*smooth(points), strict=True), color=_LOSS, linewidth=2, label="training")
    if history.evaluations:
        pairs = [(each["step"], each["loss"]) for each in history.evaluations]
        axes.plot(*zip(*pairs, strict=True), "o-", color=_EVAL, linewidth=2, label="held out")
    axes.set_xlabel("step", color=_INK)
    axes.set_ylabel("loss (nats a token)", color=_INK)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(colors=_INK, length=0)
    axes.legend(frameon=False, labelcolor=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
