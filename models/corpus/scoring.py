"""How many answers are right, task by task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...graph.errors import BitgraphError

ALL = "all"
"""Name of the row that counts every task."""


@dataclass(frozen=True)
class TaskScore:
    """A row of the table.

    Attributes:
        task: its name, or `ALL`.
        right: answers that are exactly the record's output.
        total: records.
    """

    task: str
    right: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share of answers that are right."""
        return self.right / self.total


def score(records: Sequence[Mapping[str, str]], answers: Sequence[str]) -> tuple[TaskScore, ...]:
    """Exact matches of each task, in the order in which tasks first occur, then of all.

    White space around an answer does not count; everything else does.

    Args:
        records: with the fields "task" and "output", at least one.
        answers: one for each record, in their order.

    Raises:
        BitgraphError: there is no record, one lacks a field, or there are not as many answers.
    """
    if not records:
        raise BitgraphError("there are no records to score; give at least one")
    if len(records) != len(answers):
        raise BitgraphError(
            f"there are {len(answers)} answers to {len(records)} records; give one for each"
        )
    right: dict[str, int] = {}
    total: dict[str, int] = {}
    for number, (record, answer) in enumerate(zip(records, answers, strict=True), 1):
        if not {"task", "output"} <= record.keys():
            raise BitgraphError(
                f"record {number} of {len(records)} lacks 'task' or 'output'; "
                "score a file that `bitgraph corpus` wrote"
            )
        task = record["task"]
        total[task] = total.get(task, 0) + 1
        right[task] = right.get(task, 0) + (answer.strip() == record["output"].strip())
    rows = [TaskScore(task, right[task], total[task]) for task in total]
    return (*rows, TaskScore(ALL, sum(right.values()), len(records)))
