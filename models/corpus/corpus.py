"""The records to train and to evaluate on, for pretraining and for the skill that follows."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, cycle, islice
from typing import Final

from .arithmetic import ARITHMETIC
from .counting import COUNTING
from .draws import Draws
from .question import Question, Task
from .reading import READING
from .skill import SKILL
from .sorting import SORTING
from .spelling import SPELLING
from .text import TEXT
from .world import invent_world, world_task

RECORDS: Final = 100_000
"""To pretrain on, unless told otherwise."""

EVAL_RECORDS: Final = 100
"""Held out, of each task."""

SKILL_RECORDS: Final = 1_200

REHEARSAL_RECORDS: Final = 100
"""Of each task of the corpus, among those of the skill, so that an adapter forgets little."""

SKILL_EVAL_RECORDS: Final = 200


@dataclass(frozen=True)
class Record:
    """An instruction record in Alpaca's format, and the name of its task."""

    instruction: str
    input: str
    output: str
    task: str


@dataclass(frozen=True)
class Corpus:
    """All of it; no question of an `eval` part is in a `train` part, in any wording.

    Attributes:
        train: to pretrain on, the tasks in turn.
        eval: as many of each task, all different.
        skill_train: the skill's, and some of the other tasks for rehearsal.
        skill_eval: the skill's alone, all different.
    """

    train: tuple[Record, ...]
    eval: tuple[Record, ...]
    skill_train: tuple[Record, ...]
    skill_eval: tuple[Record, ...]


def make_corpus(seed: int, records: int = RECORDS) -> Corpus:
    """The corpus of a seed; with fewer records `train` is the beginning of one with more.

    Raises:
        BitgraphError: the seed is negative.
    """
    tasks = corpus_tasks(seed)
    skill = Draws(seed, "skill")
    mixed = (SKILL,) * SKILL_RECORDS + tasks * REHEARSAL_RECORDS
    return Corpus(
        train=_trained(Draws(seed, "train"), islice(cycle(tasks), records)),
        eval=_held_out(Draws(seed, "eval"), tasks, EVAL_RECORDS),
        skill_train=_trained(skill, skill.sample(mixed, len(mixed))),
        skill_eval=_held_out(Draws(seed, "skill eval"), (SKILL,), SKILL_EVAL_RECORDS),
    )


def corpus_tasks(seed: int) -> tuple[Task, ...]:
    """The tasks of the corpus, without the skill."""
    world = world_task(invent_world(seed))
    return (SPELLING, COUNTING, SORTING, ARITHMETIC, TEXT, READING, world)


def _trained(draws: Draws, tasks: Iterable[Task]) -> tuple[Record, ...]:
    """A record of each task in turn, of questions that are not held out."""
    return tuple(_record(task, _question(task, draws, held_out=False)) for task in tasks)


def _held_out(draws: Draws, tasks: Iterable[Task], count: int) -> tuple[Record, ...]:
    """`count` records of each task, all of different questions that are held out."""
    records = []
    asked = set()
    for task in chain.from_iterable([task] * count for task in tasks):
        question = _question(task, draws, held_out=True)
        while question.canonical in asked:
            question = _question(task, draws, held_out=True)
        asked.add(question.canonical)
        records.append(_record(task, question))
    return tuple(records)


def _question(task: Task, draws: Draws, held_out: bool) -> Question:
    while (question := task.draw(draws)).held_out != held_out:
        pass
    return question


def _record(task: Task, question: Question) -> Record:
    return Record(question.instruction, question.input, question.output, task.name)
