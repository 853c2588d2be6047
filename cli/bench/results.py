"""What a side of a job found."""

import statistics
from collections.abc import Sequence
from typing import Any, TypeAlias

Result: TypeAlias = dict[str, Any]
"""As JSON holds it; "error" says why there is nothing else."""


def spread(name: str, values: Sequence[float]) -> Result:
    """The median of some measurements under a name.

    Their least, both quartiles and their largest are beside it, under the name with `_spread`.
    """
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    )
    return {name: middle, f"{name}_spread": [min(values), low, high, max(values)]}
