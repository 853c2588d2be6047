"""Batches on one flat axis: examples laid end to end, without padding between them.

A batch of N tokens needs no mask. Token i attends to keys first[i]..last[i], which for causal
attention runs from the start of its example to itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .examples import Example

IGNORE = -1
"""The label of a token whose successor is not trained."""

HF_IGNORE = -100
"""The same in Hugging Face's (and PyTorch's) labels."""

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """The inputs of one training step, over N slots.

    Attributes:
        tokens: i32[N] token ids.
        positions: i32[N] position inside the example, from 0.
        first: i32[N] slot of the first key that this token attends to.
        last: i32[N] slot of the last key that this token attends to, its own.
        labels: i32[N] the token to predict: the next of the example if it is trained, or IGNORE.
        weights: f32[N] 1 / supervised_tokens where there is a label, else 0, so that
            sum(weights * nll) is the mean loss.
        real_tokens: slots that hold a token of an example.
    """

    tokens: Ints
    positions: Ints
    first: Ints
    last: Ints
    labels: Ints
    weights: npt.NDArray[np.float32]
    real_tokens: int

    @property
    def supervised_tokens(self) -> int:
        """Number of labels."""
        return int(np.count_nonzero(self.labels != IGNORE))

    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, as the inputs of a loss graph are called."""
        names = ("tokens", "positions", "first", "last", "labels", "weights")
        return {name: getattr(self, name) for name in names}


def make_batch(examples: Sequence[Example], multiple: int = 1, pad: bool = False) -> TokenBatch:
    """Lay examples end to end and pad the whole to a multiple of `multiple` slots.

    The padding slots are one more example, of token 0 and without labels.

    Args:
        examples: of the batch.
        multiple: of the number of slots.
        pad: give each example as many slots as the longest has, filled up with token 0, as
            trainers with one row an example do; for comparison.
    """
    lengths = [example.tokens.size for example in examples]
    widths = [max(lengths, default=0)] * len(lengths) if pad else lengths
    used = sum(widths)
    slots = -(-used // multiple) * multiple
    tokens, positions = np.zeros((2, slots), np.int32)
    first = np.full(slots, used, np.int32)
    labels = np.full(slots, IGNORE, np.int32)
    start = 0
    for example, length, width in zip(examples, lengths, widths, strict=True):
        end = start + width
        tokens[start : start + length] = example.tokens
        positions[start:end] = np.arange(width)
        first[start:end] = start
        following = np.where(example.trained, example.tokens, IGNORE)[1:]
        labels[start : start + length - 1] = following
        start = end
    positions[used:] = np.arange(slots - used)
    return _assemble(tokens, positions, first, labels, sum(lengths))


def from_padded(ids: npt.NDArray[Any], labels: npt.NDArray[Any]) -> TokenBatch:
    """Flatten a batch in Hugging Face's convention.

    Each row becomes an example of T slots, padding included, so that results reshape to [B, T].

    Args:
        ids: [B, T] token ids, padded on the right.
        labels: [B, T], not shifted: labels[b, t] is ids[b, t] where it is trained, else -100.
    """
    rows, columns = ids.shape
    shifted = np.full((rows, columns), IGNORE, np.int32)
    shifted[:, :-1] = np.where(labels == HF_IGNORE, IGNORE, labels)[:, 1:]
    slot = np.arange(ids.size, dtype=np.int32)
    position = slot % columns
    tokens = ids.astype(np.int32).reshape(-1)
    return _assemble(tokens, position, slot - position, shifted.reshape(-1), ids.size)


def share_weights(batches: Sequence[TokenBatch]) -> tuple[TokenBatch, ...]:
    """Batches whose losses add up to the mean over all of their labels, as of one large batch."""
    count = np.float32(max(1, sum(batch.supervised_tokens for batch in batches)))
    return tuple(
        replace(batch, weights=(batch.labels != IGNORE).astype(np.float32) / count)
        for batch in batches
    )


def _assemble(
    tokens: Ints, positions: Ints, first: Ints, labels: Ints, real_tokens: int
) -> TokenBatch:
    """Add what follows from the other arrays: the last key and the weights."""
    last = np.arange(tokens.size, dtype=np.int32)
    labelled = labels != IGNORE
    count = max(1, int(np.count_nonzero(labelled)))
    weights = labelled.astype(np.float32) / np.float32(count)
    return TokenBatch(tokens, positions, first, last, labels, weights, real_tokens)
