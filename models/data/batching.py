"""Batches on one flat axis: examples laid end to end, without padding between them.

A batch of N tokens needs no mask. Token i attends to keys first[i]..last[i], which for causal
attention runs from the start of its example to itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph.errors import BitgraphError
from .alpaca import Example

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


def make_batch(examples: Sequence[Example], multiple: int = 1) -> TokenBatch:
    """Lay examples end to end and pad the whole to a multiple of `multiple` slots.

    The padding slots are one more example, of token 0 and without labels.
    """
    lengths = [example.tokens.size for example in examples]
    real = sum(lengths)
    slots = -(-real // multiple) * multiple
    tokens, positions = np.zeros((2, slots), np.int32)
    first = np.full(slots, real, np.int32)
    labels = np.full(slots, IGNORE, np.int32)
    start = 0
    for example, length in zip(examples, lengths, strict=True):
        end = start + length
        tokens[start:end] = example.tokens
        positions[start:end] = np.arange(length)
        first[start:end] = start
        labels[start + example.prompt_length - 1 : end - 1] = example.tokens[
            example.prompt_length :
        ]
        start = end
    positions[real:] = np.arange(slots - real)
    return _assemble(tokens, positions, first, labels, real)


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


def epoch_order(count: int, seed: int, epoch: int) -> npt.NDArray[np.intp]:
    """A permutation of range(count) that depends on (seed, epoch) alone.

    Sorting raw PCG64 output gives it: NumPy keeps that stream for ever, but not the results of
    `Generator.permutation`, and a run resumed under another NumPy must see the same order.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.argsort(np.random.PCG64(sequence).random_raw(count), kind="stable")


def epoch_batches(
    examples: Sequence[Example],
    batch_size: int,
    seed: int,
    epoch: int,
    multiple: int = 1,
    shuffle: bool = True,
) -> Iterator[TokenBatch]:
    """The batches of one epoch: every example once, the last batch possibly smaller.

    Args:
        examples: all training examples.
        batch_size: examples in a batch.
        seed: of the run, not negative.
        epoch: from 0; each has its own order.
        multiple: as in `make_batch`.
        shuffle: False keeps the order of `examples`.

    Raises:
        BitgraphError: `batch_size` is less than 1 or `seed` is negative.
    """
    if batch_size < 1:
        raise BitgraphError(f"the batch size is {batch_size}; give at least 1")
    if seed < 0:
        raise BitgraphError(f"the seed is {seed}; give a number that is not negative")
    count = len(examples)
    order = epoch_order(count, seed, epoch) if shuffle else np.arange(count)
    chosen = (order[start : start + batch_size] for start in range(0, count, batch_size))
    return (make_batch([examples[index] for index in batch], multiple) for batch in chosen)


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
