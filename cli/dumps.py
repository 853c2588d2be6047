"""What `--dump-passes` writes: the text of every stage of compilation, timings, and a page.

`index.html` works without a network. It shows any two stages side by side with the changed lines
marked; each distinct line is stored once, and a stage is a list of runs of their numbers.
"""

import io
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..graph.ir import Graph
from ..models.files import make_folder, write_text

TIMING = "timing.txt"
PAGE = "index.html"


@dataclass(frozen=True)
class Stage:
    """A graph, or what became of it, at one point of its compilation.

    Attributes:
        name: as in ``02-grad``.
        text: for people.
        nodes: how many, None for what is no graph any more.
        seconds: of the pass that made it and of the check of what it gave; 0 for the first.
    """

    name: str
    text: str
    nodes: int | None
    seconds: float


class Stages:
    """Collects the stages of one compilation; `add` is an `on_stage`.

    Attributes:
        done: so far.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Collect stages and write each into a folder, if one is given."""
        self.done: list[Stage] = []
        self._folder = folder
        self._last: float | None = None

    def add(self, number: int, name: str, graph: object, seconds: float | None = None) -> None:
        """Take a stage; unless its time is given, it was made since the last one."""
        if seconds is None:
            seconds = 0.0 if self._last is None else time.perf_counter() - self._last
        nodes = len(graph.nodes) if isinstance(graph, Graph) else None
        stage = Stage(f"{number:02d}-{name}", str(graph), nodes, seconds)
        self.done.append(stage)
        if self._folder is not None:
            make_folder(self._folder)
            write_text(self._folder / f"{stage.name}.txt", stage.text)
        self._last = time.perf_counter()


@contextmanager
def dumping(folder: Path | None) -> Iterator[Stages]:
    """Collect stages; at the end, even one by an error, the folder gets timings and the page."""
    stages = Stages(folder)
    try:
        yield stages
    finally:
        if folder is not None and stages.done:
            write_text(folder / TIMING, _as_text(timing_table(stages.done)))
            write_text(folder / PAGE, page(stages.done))


def timing_table(stages: Sequence[Stage]) -> Table:
    """Seconds, nodes before and after, and lines of each stage."""
    table = Table(box=None)
    table.add_column("stage")
    for title in ("seconds", "nodes before", "after", "lines"):
        table.add_column(title, justify="right")
    before = ""
    for stage in stages:
        after = "" if stage.nodes is None else f"{stage.nodes:,}"
        lines = f"{stage.text.count(chr(10)):,}"
        table.add_row(stage.name, f"{stage.seconds:.3f}", before, after, lines)
        before = after
    total = sum(stage.seconds for stage in stages)
    table.add_row("all", f"{total:.3f}", "", "", "", style="bold")
    return table


def page(stages: Sequence[Stage]) -> str:
    """A page on its own that compares stages."""
    template = files(__package__).joinpath("dumps.html").read_text()
    data = json.dumps(_page_data(stages), separators=(",", ":"))
    return template.replace("{{data}}", data.replace("<", "\\u003c"))


def _page_data(stages: Sequence[Stage]) -> dict[str, object]:
    """Distinct lines in the order they first appear, and stages as runs of their numbers."""
    numbers: dict[str, int] = {}
    described = []
    for stage in stages:
        found = [numbers.setdefault(line, len(numbers)) for line in stage.text.splitlines()]
        described.append(
            {
                "name": stage.name,
                "seconds": round(stage.seconds, 4),
                "nodes": stage.nodes,
                "runs": _runs(found),
            }
        )
    return {"lines": list(numbers), "stages": described}


def _runs(numbers: Sequence[int]) -> list[int]:
    """First and count of each run of following numbers, one behind the other."""
    runs: list[int] = []
    for number in numbers:
        if runs and number == runs[-2] + runs[-1]:
            runs[-1] += 1
        else:
            runs += (number, 1)
    return runs


def _as_text(table: Table) -> str:
    file = io.StringIO()
    Console(file=file, width=100).print(table)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
