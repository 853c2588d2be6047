"""How long examples are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .examples import Example, lengths_of

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
BINS = 12
_ROUND_WIDTHS = (1, 2, 5)


@dataclass(frozen=True)
class LengthStatistics:
    """Of the examples of a data set.

    Attributes:
        examples: how many.
        tokens: of all of them.
        trained: how many of these are trained.
        percentiles: tokens of an example, by percentile.
        histogram: (first, last, count): examples of first..last tokens, in equal steps.
    """

    examples: int
    tokens: int
    trained: int
    percentiles: dict[int, int]
    histogram: tuple[tuple[int, int, int], ...]


def length_statistics(examples: Sequence[Example]) -> LengthStatistics:
    """Statistics of at least one example."""
    lengths = lengths_of(examples)
    values = np.percentile(lengths, PERCENTILES, method="nearest")
    low, high = int(lengths.min()), int(lengths.max())
    width = _round_width((high - low) / BINS)
    bins = np.bincount(lengths // width)
    return LengthStatistics(
        examples=lengths.size,
        tokens=int(lengths.sum()),
        trained=sum(int(np.count_nonzero(example.trained)) for example in examples),
        percentiles=dict(zip(PERCENTILES, values.tolist(), strict=True)),
        histogram=tuple(
            (index * width, (index + 1) * width - 1, int(bins[index]))
            for index in range(low // width, bins.size)
        ),
    )


def _round_width(least: float) -> int:
    """The least of 1, 2, 5, 10, 20, ... that is not below `least`."""
    power = 1
    while True:
        for width in _ROUND_WIDTHS:
            if width * power >= least:
                return width * power
        power *= 10
