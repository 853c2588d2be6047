"""What a device can do at most, by its name: the roofline that kernels are held against."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .work import Work


@dataclass(frozen=True)
class Ceilings:
    """Rates that no kernel exceeds.

    Attributes:
        halves: operations per second of products on f16 (a multiplication and an addition are two).
        codes: the same on 8-bit codes.
        bandwidth: bytes per second between memory and kernels.
    """

    halves: float
    codes: float
    bandwidth: float

    def seconds(self, work: Work) -> float:
        """The least time that some work takes."""
        return max(self.computing(work), work.bytes / self.bandwidth)

    def computing(self, work: Work) -> float:
        """The least time of its operations alone."""
        return work.operations / (self.codes if work.on_codes else self.halves)


CEILINGS: Final[Mapping[str, Ceilings]] = {
    # Products: published for cooperative matrices of the KHR extension on this chip. Bandwidth:
    # a kernel that reads 1 GiB with 16-byte loads, measured.
    "NVIDIA H100": Ceilings(halves=612e12, codes=1243e12, bandwidth=3.1e12),
}
"""By the beginning of a device's name."""

NOMINAL: Final = Ceilings(halves=100e12, codes=200e12, bandwidth=1e12)
"""Relations as on many devices: they say whether work is bound by products or by bytes."""


def ceilings_of(device: str) -> Ceilings | None:
    """Those of a device, None if they are not known."""
    return next((c for name, c in CEILINGS.items() if device.startswith(name)), None)
