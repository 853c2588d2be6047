"""`bitgraph eval --exact`: how many answers are right, task by task."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..graph.program import Backend
from ..models.adapters.lora import LoraAdapter
from ..models.bitnet.batch import BatchGenerator, answers
from ..models.bitnet.tokenizer import Tokenizer
from ..models.bitnet.weights import Checkpoint
from ..models.corpus.exam import Exam
from ..models.corpus.scoring import score
from ..models.files import atomic_write


def take_exam(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    backend: Backend,
    exam: Exam,
    adapters: Mapping[str, LoraAdapter | None],
    sequences: int,
    max_tokens: int,
) -> dict[str, list[str]]:
    """The most probable answers.

    Args:
        checkpoint: the model.
        tokenizer: of the model.
        backend: where to compute.
        exam: the questions.
        adapters: by the name of the column that their answers get.
        sequences: questions at a time.
        max_tokens: the longest answer.

    Raises:
        BitgraphError: a prompt leaves no room in the model's context.
    """
    generator = BatchGenerator(
        checkpoint.config,
        checkpoint.weights,
        backend,
        longest=max(map(len, exam.prompts)),
        max_tokens=max_tokens,
        sequences=max(sequences, 2),
    )
    taken = {}
    for name, adapter in adapters.items():
        generator.use(adapter)
        found = answers(generator, tokenizer, exam.prompts)
        taken[name] = list(_shown(found, len(exam.prompts), name))
    return taken


def _shown(found: Iterator[str], count: int, name: str) -> Iterator[str]:
    """Answers, with a progress bar on a terminal."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    yield from track(found, name, count, console=console, transient=True, disable=hidden)


def exam_table(exam: Exam, taken: Mapping[str, Sequence[str]]) -> Table:
    """Exact matches of each task and of all."""
    table = Table("task", box=None)
    table.add_column("records", justify="right")
    for name in taken:
        table.add_column(name, justify="right")
    columns = [score(exam.records, given) for given in taken.values()]
    for rows in zip(*columns, strict=True):
        shares = (f"{row.right:,} ({row.accuracy:.1%})" for row in rows)
        table.add_row(rows[0].task, f"{rows[0].total:,}", *shares)
    return table


def write_exam(path: Path, exam: Exam, taken: Mapping[str, Sequence[str]]) -> None:
    """One object a line for each question: the record and what was answered.

    Raises:
        BitgraphError: the file cannot be written.
    """
    with atomic_write(path) as file:
        for number, record in enumerate(exam.records):
            given = {f"answer_{name}": each[number] for name, each in taken.items()}
            line = json.dumps({**record, **given}, ensure_ascii=False)
            file.write(line.encode(errors="replace") + b"\n")
