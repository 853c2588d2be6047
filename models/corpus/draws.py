"""Random choices that depend on a seed and a name alone, under every version of NumPy."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from ...graph.errors import BitgraphError

ItemT = TypeVar("ItemT")


class Draws:
    """A stream of choices.

    It takes raw PCG64 output: NumPy keeps that stream for ever, but not what its `Generator` makes
    of it.
    """

    def __init__(self, seed: int, name: str) -> None:
        """Begin a stream.

        Args:
            seed: of the corpus, not negative.
            name: of what the stream is for; another name gives an independent stream.

        Raises:
            BitgraphError: the seed is negative.
        """
        if seed < 0:
            raise BitgraphError(f"the seed is {seed}; give a number that is not negative")
        sequence = np.random.SeedSequence(seed, spawn_key=tuple(name.encode()))
        self._bits = np.random.PCG64(sequence)

    def below(self, limit: int) -> int:
        """One of 0, ..., limit - 1."""
        return int(self._bits.random_raw()) * limit >> 64

    def between(self, first: int, last: int) -> int:
        """One of first, ..., last."""
        return first + self.below(last - first + 1)

    def choice(self, items: Sequence[ItemT]) -> ItemT:
        """One of the items."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[ItemT], count: int) -> list[ItemT]:
        """`count` different items in random order (the first steps of a Fisher-Yates shuffle)."""
        pool = list(items)
        for index in range(count):
            other = self.between(index, len(pool) - 1)
            pool[index], pool[other] = pool[other], pool[index]
        return pool[:count]
