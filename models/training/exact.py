"""Whether answers are exactly right: a model is asked what the records of a file ask."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...graph.errors import BitgraphError
from ...graph.program import Backend
from ...graph.tensors import HostValue
from ..adapters.lora import LoraAdapter
from ..bitnet.batch import BatchGenerator, answers
from ..bitnet.config import BitNetConfig
from ..bitnet.tokenizer import Tokenizer
from ..corpus.scoring import TaskScore, score
from ..data.encoding import encode_prompt
from ..data.reading import open_data, read_records
from ..data.records import Conversation
from ..data.templates.template import load_template

TOGETHER = 64
"""Questions that are answered at a time: a processor's products want many rows."""

OTHER = "other"
"""Task of a record that names none."""


@dataclass(frozen=True)
class Question:
    """What a record asks.

    Attributes:
        record: its number, counted from 1.
        task: the kind of question.
        asked: what was said last before the answer, in words.
        prompt: tokens that the answer follows.
        expected: the right answer.
    """

    record: int
    task: str
    asked: str
    prompt: list[int]
    expected: str


def read_questions(path: Path, tokenizer: Tokenizer, template: str | None) -> list[Question]:
    """The question of each record of a file: all that is said before its last answer.

    Args:
        path: of the file.
        tokenizer: of the model.
        template: name or file of one; None takes that of the file's format.

    Raises:
        BitgraphError: the file cannot be read or rendered, or a record has no answer at its end.
    """
    found = read_records(open_data(path))
    name = template or found.format.template
    if name is None:
        raise BitgraphError(f"{path} holds plain text; exact answers need records that ask")
    form = load_template(name)
    questions = []
    for number, record in enumerate(found.records, 1):
        where = f"{path}: record {number} of {len(found.records)}"
        if not isinstance(record, Conversation) or record.turns[-1].role != "assistant":
            raise BitgraphError(f"{where} does not end with an answer; add it")
        *asked, answer = record.turns
        try:
            prompt = encode_prompt(asked, form, tokenizer)
        except BitgraphError as error:
            raise BitgraphError(f"{where}: {error}") from error
        said = asked[-1].content if asked else ""
        questions.append(Question(number, record.task or OTHER, said, prompt, answer.content))
    return questions


class Examiner:
    """A model that is asked, with one adapter or another or none."""

    def __init__(
        self,
        config: BitNetConfig,
        weights: Mapping[str, HostValue],
        backend: Backend,
        tokenizer: Tokenizer,
        questions: Sequence[Question],
        *,
        sequences: int = TOGETHER,
        max_tokens: int | None = None,
    ) -> None:
        """Load the weights.

        Args:
            config: the model's geometry.
            weights: as a checkpoint gives them.
            backend: where to compute.
            tokenizer: of the model.
            questions: at least one.
            sequences: questions that are answered at a time.
            max_tokens: the longest answer; None for a little more than the longest right one.

        Raises:
            BitgraphError: a question leaves no room in the model's context.
        """
        context = config.max_position_embeddings
        for question in questions:
            if len(question.prompt) >= context:
                raise BitgraphError(
                    f"record {question.record} asks with {len(question.prompt)} tokens, but the "
                    f"model's context holds {context}; remove it"
                )
        self._tokenizer = tokenizer
        self._prompts = [question.prompt for question in questions]
        expected = tokenizer.encode_batch([question.expected for question in questions])
        self._generator = BatchGenerator(
            config,
            weights,
            backend,
            longest=max(map(len, self._prompts)),
            max_tokens=max_tokens or 2 * max(map(len, expected)) + 2,
            sequences=max(2, min(sequences, len(questions))),
        )

    def answers(self, adapter: LoraAdapter | None = None) -> Iterator[str]:
        """The most probable answer to each question, in their order.

        Raises:
            BitgraphError: the adapter does not fit the model.
        """
        self._generator.use(adapter)
        return answers(self._generator, self._tokenizer, self._prompts)


def exact_matches(questions: Sequence[Question], answers: Sequence[str]) -> tuple[TaskScore, ...]:
    """How many answers are right, task by task and over all; see `score`."""
    return score([{"task": q.task, "output": q.expected} for q in questions], answers)
