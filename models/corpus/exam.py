"""Records whose answers can be checked, as questions to a model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...graph.errors import BitgraphError
from ..bitnet.tokenizer import Tokenizer
from ..data.encoding import encode_prompt
from ..data.reading import open_data, read_records
from ..data.records import Conversation
from ..data.templates.template import load_template

_FIELDS = ("instruction", "output", "task")

_ADVICE = "exact matches are counted on records as `bitgraph corpus` writes them"


@dataclass(frozen=True)
class Exam:
    """Questions.

    Attributes:
        records: each with "instruction", "input", "output" and "task".
        prompts: the tokens of each, as training has them before the answer.
    """

    records: Sequence[Mapping[str, str]]
    prompts: Sequence[list[int]]


def read_exam(path: Path, template: str | None, tokenizer: Tokenizer) -> Exam:
    """The questions of a file that `bitgraph corpus` wrote, or of one like it.

    Args:
        path: Alpaca records with the field "task".
        template: name or file of one; None takes that of Alpaca records.
        tokenizer: of the model.

    Raises:
        BitgraphError: the file, a record or the template is wrong.
    """
    file = open_data(path)
    conversations = read_records(file)
    own = conversations.format.template
    if own is None:
        raise BitgraphError(f"{path} is plain text; {_ADVICE}")
    form = load_template(template or own)
    records, prompts = [], []
    pairs = zip(_items(file.contents), conversations.records, strict=True)
    for number, (item, conversation) in enumerate(pairs, 1):
        assert isinstance(conversation, Conversation)
        for name in _FIELDS:
            if not isinstance(item.get(name), str):
                raise BitgraphError(f"{path}: record {number} lacks '{name}'; {_ADVICE}")
        records.append({"input": "", **{key: str(value) for key, value in item.items()}})
        prompts.append(encode_prompt(conversation.turns[:-1], form, tokenizer))
    return Exam(records, prompts)


def _items(text: str) -> list[dict[str, Any]]:
    """The objects of a file that was read as records, so it has them."""
    if text.lstrip()[:1] == "{":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    items: list[dict[str, Any]] = json.loads(text)
    return items
