"""Tokenized records."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Example:
    """One training sequence.

    Attributes:
        tokens: i32[T], T >= 2.
        trained: bool[T], the tokens that the model learns to predict. The first is never one of
            them, because nothing comes before it.
        record: which record of its file it is from, counted from 1.
    """

    tokens: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]
    record: int = 1


@dataclass(frozen=True)
class Counts:
    """What became of the records of a file.

    Attributes:
        records: how many there were.
        cut: examples that lost their end because they were too long.
        split: documents that gave several examples because they were too long.
        unanswered: records left out because the assistant says nothing in them.
        crowded: records left out because nothing of what is trained fits the maximum length.
    """

    records: int = 0
    cut: int = 0
    split: int = 0
    unanswered: int = 0
    crowded: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        names = [each.name for each in fields(self)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def skipped(self) -> int:
        """Records left out."""
        return self.unanswered + self.crowded


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """The examples of a file, in the order of its records, and what did not become one."""

    examples: list[Example] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)


def prompted(tokens: npt.NDArray[np.int32], prompt_length: int, record: int = 1) -> Example:
    """An example of a prompt and its response, of which the response is trained."""
    return Example(tokens, np.arange(tokens.size) >= max(prompt_length, 1), record)


def lengths_of(examples: Sequence[Example]) -> npt.NDArray[np.int64]:
    """Tokens of each example, i64[E]."""
    return np.array([example.tokens.size for example in examples], np.int64)


def to_arrays(encoded: EncodedSet) -> dict[str, npt.NDArray[Any]]:
    """The set as a few flat arrays, which are quick to store."""
    examples = encoded.examples
    return {
        "lengths": lengths_of(examples),
        "records": np.array([example.record for example in examples], np.int64),
        "tokens": np.concatenate([np.zeros(0, np.int32), *(e.tokens for e in examples)]),
        "trained": np.packbits(
            np.concatenate([np.zeros(0, np.bool_), *(e.trained for e in examples)])
        ),
    }


def from_arrays(arrays: dict[str, npt.NDArray[Any]], counts: Counts) -> EncodedSet:
    """The set that `to_arrays` gave these arrays of."""
    lengths, tokens = arrays["lengths"], arrays["tokens"]
    ends = np.cumsum(lengths)
    trained = np.unpackbits(arrays["trained"], count=tokens.size).astype(np.bool_)
    examples = [
        Example(tokens[end - length : end], trained[end - length : end], record)
        for length, end, record in zip(
            lengths.tolist(), ends.tolist(), arrays["records"].tolist(), strict=True
        )
    ]
    return EncodedSet(examples, counts)
