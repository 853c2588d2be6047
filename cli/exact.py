"""The exact matches of `bitgraph eval --exact`: asking, and showing what was right."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..models.files import atomic_write
from ..models.training.exact import Examiner, Question, exact_matches
from .progress import taken
from .session import Adapters


def evaluate_exactly(
    examiner: Examiner,
    questions: Sequence[Question],
    adapters: Adapters,
    out: Path | None,
    shown: int = 0,
) -> None:
    """Ask without and with the adapters, and print a table of right answers by task.

    Args:
        examiner: that is asked.
        questions: what it is asked.
        adapters: perhaps none.
        out: a file for the answers.
        shown: questions whose answers are printed side by side.
    """
    count, adapter = len(questions), adapters.together()
    said = {"without": taken(examiner.answers(), count, "without")}
    if adapter is not None:
        said["with"] = taken(examiner.answers(adapter), count, "with")
    if out is not None:
        _write(out, questions, said)
    names = {"without": "none", "with": adapters.names}
    titles = [names[name] for name in said]
    console = Console(highlight=False, markup=False, emoji=False)
    if shown:
        console.print(_side_by_side(questions[:shown], list(said.values()), titles))
    console.print(_table(questions, list(said.values()), titles))


def _write(path: Path, questions: Sequence[Question], said: Mapping[str, Sequence[str]]) -> None:
    """One object a line for each question, in the order of the records."""
    with atomic_write(path) as file:
        for question, each in zip(questions, zip(*said.values(), strict=True), strict=True):
            fields = {"record": question.record, "task": question.task}
            given = dict(zip((f"answer_{name}" for name in said), each, strict=True))
            record = {**fields, "expected": question.expected, **given}
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _side_by_side(
    questions: Sequence[Question], said: Sequence[Sequence[str]], titles: Sequence[str]
) -> Table:
    table = Table("question", "right answer", *titles, box=None)
    for number, question in enumerate(questions):
        table.add_row(question.asked, question.expected, *(each[number] for each in said))
    return table


def _table(
    questions: Sequence[Question], said: Sequence[Sequence[str]], titles: Sequence[str]
) -> Table:
    table = Table("task", box=None)
    for title in ("records", *titles):
        table.add_column(title, justify="right")
    scores = [exact_matches(questions, answers) for answers in said]
    for row in zip(*scores, strict=True):
        table.add_row(row[0].task, f"{row[0].total:,}", *(f"{one.accuracy:.1%}" for one in row))
    return table
