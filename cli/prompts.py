"""The prompts of `bitgraph generate --prompts`: from a file, answered several at a time."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..graph.errors import BitgraphError
from ..models.bitnet.batch import BatchGenerator
from ..models.bitnet.generate import Sampling
from ..models.bitnet.stream import TextStream
from ..models.bitnet.tokenizer import Tokenizer
from ..models.files import atomic_write
from .session import Session

Answer: TypeAlias = tuple[TextStream, int]
"""The text that follows a prompt, and how many tokens there was room for."""


@dataclass(frozen=True)
class Prompt:
    """A prompt of a file; `where` names its place there."""

    text: str
    where: str


def read_prompts(path: Path) -> list[Prompt]:
    """A prompt a line, or, in a file that ends in .jsonl, an object with `prompt` a line.

    Raises:
        BitgraphError: the file cannot be read, a line is not of that form, or there are none.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(
            f"{path} could not be read ({reason}); give a file of prompts"
        ) from None
    except UnicodeDecodeError as error:
        raise BitgraphError(f"{path} is not UTF-8 text (byte {error.start})") from None
    read: Callable[[str, str], str] = _field if path.suffix == ".jsonl" else lambda line, _: line
    places = ((line.removesuffix("\r"), f"{path}: line {n}") for n, line in enumerate(lines, 1))
    prompts = [Prompt(read(line, where), where) for line, where in places if line.strip()]
    if not prompts:
        raise BitgraphError(f"{path} has no prompts; put one on each line")
    return prompts


def one_by_one(session: Session, ids: Sequence[list[int]]) -> Iterator[Answer]:
    """Answer prompts, given as tokens, one after the other."""
    for tokens in ids:
        yield session.answer(tokens), session.generator.room(tokens, session.max_tokens)


def together(
    generator: BatchGenerator,
    tokenizer: Tokenizer,
    sampling: Sampling,
    stops: Sequence[str],
    ids: Sequence[list[int]],
) -> Iterator[Answer]:
    """Answer prompts, given as tokens, several at a time."""
    answers = generator.generate(ids, sampling, tokenizer.stop_ids)
    for prompt, tokens in zip(ids, answers, strict=True):
        yield TextStream(iter(tokens), tokenizer.stream(), stops), generator.room(prompt)


def write_answers(prompts: Sequence[Prompt], answers: Iterable[Answer], out: Path | None) -> int:
    """Write a JSON object a line for each prompt, on standard output as they come, or to a file.

    Args:
        prompts: as they were read.
        answers: to each of them.
        out: a file, which appears when all are answered.

    Returns:
        How many tokens the answers have.
    """
    tokens = 0
    results = _results(prompts, answers)
    if out is None:
        for result in results:
            tokens += result["tokens"]
            sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        return tokens
    with atomic_write(out) as file:
        for result in results:
            tokens += result["tokens"]
            file.write(json.dumps(result, ensure_ascii=False).encode() + b"\n")
    return tokens


def _results(prompts: Sequence[Prompt], answers: Iterable[Answer]) -> Iterator[dict[str, Any]]:
    """What each prompt gives: `finish` is "stop", or "length" where there was no more room."""
    for prompt, (answer, room) in zip(prompts, answers, strict=True):
        text = "".join(answer)
        ended = answer.stopped or len(answer.tokens) < room
        yield {
            "prompt": prompt.text,
            "text": text,
            "tokens": len(answer.tokens),
            "finish": "stop" if ended else "length",
        }


def _field(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise BitgraphError(f"{where} is not a JSON object with a 'prompt'") from None
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str):
        raise BitgraphError(f"{where} has no 'prompt' that is a string")
    return prompt
