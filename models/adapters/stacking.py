"""Several adapters at once, unmerged: their ranks laid side by side in one."""

from collections.abc import Sequence

import numpy as np

from ...graph.errors import BitgraphError
from .lora import LoraAdapter, Tensor


def stack(parts: Sequence[tuple[LoraAdapter, float]]) -> LoraAdapter:
    """One adapter that adds up what several do, each times a factor.

    Its A is theirs, one below the other, its B theirs beside each other with factor and scaling
    multiplied in, so its own scaling is 1. A module that one of them leaves alone has zeros there.
    So rank and modules depend on the adapters alone, not on the factors.

    Args:
        parts: at least one adapter, with its factor; 0 leaves it out.

    Raises:
        BitgraphError: two adapters are for modules of different sizes.
    """
    widths = [max(map(adapter.rank_of, adapter.modules)) for adapter, _ in parts]
    rank = sum(widths)
    tensors: dict[str, Tensor] = {}
    begin = 0
    for (adapter, factor), width in zip(parts, widths, strict=True):
        for module in adapter.modules:
            here = slice(begin, begin + adapter.rank_of(module))
            names = [f"{module}.lora_{half}.weight" for half in "AB"]
            a, b = (adapter.tensors[name] for name in names)
            all_a = tensors.setdefault(names[0], np.zeros((rank, a.shape[1]), np.float32))
            all_b = tensors.setdefault(names[1], np.zeros((b.shape[0], rank), np.float32))
            if (all_a.shape[1], all_b.shape[0]) != (a.shape[1], b.shape[0]):
                raise BitgraphError(f"two adapters have different sizes for {module}; use one")
            all_a[here] = a
            all_b[:, here] = np.float32(factor * adapter.scaling_of(module)) * b
        begin += width
    modules = tuple(sorted({name.rsplit(".lora_", 1)[0] for name in tensors}))
    return LoraAdapter(rank, float(rank), modules, tensors)
