r"""Alpaca instruction data: reading, templates, tokens.

The format and the two templates are Stanford Alpaca's (tatsu-lab/stanford_alpaca). Its training
script puts the output right after "### Response:", its README a line below; bitgraph follows the
README, so every prompt ends in "### Response:\n".
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...graph.errors import BitgraphError
from ..bitnet.tokenizer import Tokenizer

PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


@dataclass(frozen=True)
class AlpacaRecord:
    """One task and its answer; `input` is "" where the instruction says it all."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True, eq=False)
class Example:
    """One training sequence.

    Attributes:
        tokens: i32[T], BOS, prompt, response and EOS, possibly cut at the end.
        prompt_length: leading tokens that are not trained, 1 <= prompt_length < T.
    """

    tokens: npt.NDArray[np.int32]
    prompt_length: int


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """Tokenized records, in their order.

    Attributes:
        examples: one for each record that keeps at least one token of its response.
        cut: examples that lost the end of their response.
        skipped: records left out because their output is empty (the original Alpaca data has
            some) or because their prompt alone fills the maximum length.
    """

    examples: list[Example]
    cut: int
    skipped: int


def load_alpaca(path: Path) -> list[AlpacaRecord]:
    """Read a JSON array of objects {instruction, input, output}.

    `input` may be absent, other fields are ignored.

    Raises:
        BitgraphError: the file cannot be read, is not UTF-8 JSON of that form, or has no records.
    """
    data = _parse_json(path, _read_text(path))
    if not isinstance(data, list):
        raise BitgraphError(f"{path} is not a JSON array; Alpaca data is one array of objects")
    if not data:
        raise BitgraphError(f"{path} has no records; there is nothing to train on")
    return [
        _read_record(item, f"{path}: record {number} of {len(data)}")
        for number, item in enumerate(data, 1)
    ]


def render(record: AlpacaRecord) -> tuple[str, str]:
    """The prompt that a record makes, and the response to it."""
    template = PROMPT_WITH_INPUT if record.input else PROMPT
    prompt = template.format(instruction=record.instruction, input=record.input)
    return prompt, record.output


def tokenize(records: Sequence[AlpacaRecord], tokenizer: Tokenizer, max_length: int) -> EncodedSet:
    """Turn each record into [BOS] prompt response EOS, cut to `max_length` tokens.

    Prompt and response are tokenized apart, so that no token spans both and generation meets the
    very prompt tokens that training saw. BOS is there if the model expects one.

    Raises:
        BitgraphError: no record keeps a token of its response.
    """
    examples = []
    cut = 0
    for record in records:
        prompt, response = render(record)
        head = tokenizer.encode(prompt, bos=tokenizer.add_bos)
        if len(head) >= max_length or not response.strip():
            continue
        tokens = head + tokenizer.encode(response) + [tokenizer.eos_id]
        cut += len(tokens) > max_length
        examples.append(Example(np.array(tokens[:max_length], np.int32), len(head)))
    if not examples:
        raise BitgraphError(
            f"all {len(records)} records are skipped because their outputs are empty or their "
            f"prompts alone fill the maximum length of {max_length} tokens; mend them or raise it"
        )
    return EncodedSet(examples, cut, skipped=len(records) - len(examples))


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(f"{path} cannot be read ({reason}); give a JSON file") from error
    except UnicodeDecodeError as error:
        raise BitgraphError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error


def _parse_json(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BitgraphError(
            f"{path} is not JSON ({error.msg} at {where}); Alpaca data is one array of objects"
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number too long
        raise BitgraphError(
            f"{path} holds JSON that is no Alpaca data; it is one array of objects"
        ) from error


def _read_record(item: object, where: str) -> AlpacaRecord:
    if not isinstance(item, dict):
        raise BitgraphError(f"{where} is not an object; it needs 'instruction' and 'output'")
    for field in ("instruction", "output"):
        if field not in item:
            raise BitgraphError(f"{where} lacks '{field}'; add it or remove the record")
    instruction, context, output = (
        _read_field(item.get(field, ""), field, where)
        for field in ("instruction", "input", "output")
    )
    return AlpacaRecord(instruction, context, output)


def _read_field(value: object, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise BitgraphError(f"{where}: '{field}' is not a string; write it in quotes")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BitgraphError(
            f"{where}: '{field}' holds a lone surrogate escape, which is not valid Unicode; "
            "remove it"
        ) from error
    return value
