"""The prompts of `bitgraph generate --prompts`: from a file, answered one after the other."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..graph.errors import BitgraphError
from ..models.files import atomic_write
from .session import Session


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


def answer_all(
    session: Session, prompts: Sequence[Prompt], ids: Sequence[list[int]], out: Path | None
) -> None:
    """Write a JSON object a line for each prompt, on standard output as they come, or to a file.

    Args:
        session: that answers.
        prompts: as they were read.
        ids: the tokens of each.
        out: a file, which appears when all are answered.
    """
    results = _results(session, prompts, ids)
    if out is None:
        for result in results:
            sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        return
    with atomic_write(out) as file:
        for result in results:
            file.write(json.dumps(result, ensure_ascii=False).encode() + b"\n")


def _results(
    session: Session, prompts: Sequence[Prompt], ids: Sequence[list[int]]
) -> Iterator[dict[str, Any]]:
    """What each prompt gives: `finish` is "stop", or "length" where there was no more room."""
    for prompt, tokens in zip(prompts, ids, strict=True):
        answer = session.answer(tokens)
        text = "".join(answer)
        room = session.generator.room(tokens, session.max_tokens)
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
