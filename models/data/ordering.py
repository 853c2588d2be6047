"""Which examples make up which step: shuffled by seed, by count or packed to a budget of tokens.

A plan is made of lengths alone, so all steps of a run are known before it begins, and a run that is
taken up again meets the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ...graph.errors import BitgraphError
from .batching import TokenBatch, make_batch
from .examples import Example

Layout: TypeAlias = Literal["flat", "pack", "pad"]

LOOKAHEAD = 256
"""Shuffled examples among which packing may choose what fills a step's last gap."""

Lengths: TypeAlias = npt.NDArray[np.int64]
Indices: TypeAlias = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Batching:
    """How examples are shared out over steps.

    Attributes:
        layout: "flat" lays `batch_size` examples end to end; "pack" fills `tokens_per_step` with
            as many as fit; "pad" gives each of `batch_size` examples the slots of the longest.
        batch_size: examples a step, unless packed.
        tokens_per_step: slots of a packed step.
        multiple: slots are rounded up to a multiple of this, so that few programs serve all
            batches. All packed steps have one size.
    """

    layout: Layout = "flat"
    batch_size: int = 8
    tokens_per_step: int = 0
    multiple: int = 1

    def batch(self, examples: Sequence[Example]) -> TokenBatch:
        """The examples of one step as a batch."""
        return make_batch(examples, self._multiple(), pad=self.layout == "pad")

    def most_slots(self, lengths: Lengths) -> int:
        """Slots of the largest batch that examples of these lengths can make."""
        longest = np.sort(lengths)[::-1][: self.batch_size]
        used = longest.max() * longest.size if self.layout == "pad" else longest.sum()
        used = 1 if self.layout == "pack" else int(used)
        return -(-used // self._multiple()) * self._multiple()

    def _multiple(self) -> int:
        if self.layout != "pack":
            return self.multiple
        return -(-self.tokens_per_step // self.multiple) * self.multiple


def plan_epoch(
    lengths: Lengths, batching: Batching, seed: int, epoch: int, shuffle: bool = True
) -> list[Indices]:
    """The examples of each step of one epoch; every example is in one of them.

    Args:
        lengths: tokens of each example, i64[E].
        batching: how to share them out.
        seed: of the run, not negative.
        epoch: from 0; each has its own order.
        shuffle: False keeps the order of the examples.

    Raises:
        BitgraphError: an option is out of range, or an example does not fit a packed step.
    """
    if batching.batch_size < 1:
        raise BitgraphError(f"the batch size is {batching.batch_size}; give at least 1")
    if seed < 0:
        raise BitgraphError(f"the seed is {seed}; give a number that is not negative")
    order = epoch_order(lengths.size, seed, epoch) if shuffle else np.arange(lengths.size)
    if batching.layout == "pack":
        return _pack(order, lengths, batching.tokens_per_step)
    starts = range(0, lengths.size, batching.batch_size)
    return [order[start : start + batching.batch_size] for start in starts]


def split_off(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and a share of the records to evaluate on, both in their order.

    All examples of a record are on one side.

    Raises:
        BitgraphError: one of the two would be empty.
    """
    records = np.unique([example.record for example in examples])
    count = round(fraction * records.size)
    if not 0 < count < records.size:
        raise BitgraphError(
            f"--eval-split {fraction:g} of {records.size} records leaves {count} to evaluate on "
            f"and {records.size - count} to train on; choose another share"
        )
    chosen = records[epoch_order(records.size, seed, epoch=_SPLIT)[:count]]
    held_out = frozenset(chosen.tolist())
    return (
        [example for example in examples if example.record not in held_out],
        [example for example in examples if example.record in held_out],
    )


_SPLIT = 2**32 - 1
"""In the place of an epoch: the order in which records are held out."""


def epoch_order(count: int, seed: int, epoch: int) -> Indices:
    """A permutation of range(count) that depends on (seed, epoch) alone.

    Sorting raw PCG64 output gives it: NumPy keeps that stream for ever, but not the results of
    `Generator.permutation`, and a run resumed under another NumPy must see the same order.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.argsort(np.random.PCG64(sequence).random_raw(count), kind="stable")


def _pack(order: Indices, lengths: Lengths, budget: int) -> list[Indices]:
    """Steps of at most `budget` tokens: examples in their order, then what fills the gap best.

    Filling by length alone would lay examples of one length, and with it often of one kind, into
    one step.
    """
    if lengths.size and lengths.max() > budget:
        raise BitgraphError(
            f"tokens-per-step is {budget}, but an example has {lengths.max()} tokens; raise it, or "
            "choose a smaller --max-seq-len"
        )
    sizes = lengths.tolist()
    later = iter(order.tolist())
    waiting = list(islice(later, LOOKAHEAD))
    steps: list[Indices] = []
    while waiting:
        step: list[int] = []
        room = budget
        while (place := _next_place(waiting, sizes, room)) is not None:
            index = waiting.pop(place)
            step.append(index)
            room -= sizes[index]
            waiting += islice(later, 1)
        steps.append(np.array(step, np.intp))
    return steps


def _next_place(waiting: Sequence[int], sizes: Sequence[int], room: int) -> int | None:
    """Which of the waiting examples comes next: the first, or the longest that fits."""
    if not waiting:
        return None
    if sizes[waiting[0]] <= room:
        return 0
    size, place = max(
        (sizes[index] if sizes[index] <= room else 0, -place) for place, index in enumerate(waiting)
    )
    return -place if size else None
