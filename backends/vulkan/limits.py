"""What lowering and planning need to know of a device, and nothing more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Limits:
    """Limits and abilities of a device. The defaults are what every Vulkan 1.3 device has.

    Attributes:
        max_range: bytes that one binding may span.
        alignment: of a binding's offset, in bytes.
        max_allocation: bytes of one buffer.
        max_groups: workgroups along one axis of a dispatch.
        shared_memory: bytes of shared memory of a workgroup.
        subgroup: invocations of a subgroup.
        bindings: storage buffers of one kernel.
        invocations: of a workgroup.
        cores: processors that workgroups are shared out to, 0 where nobody says.
        features: names of optional abilities, such as "cooperative_matrix".
        avoided: ways of computing a product that were timed on the device and lost to another
            (`tuning.py`), as `Choice.name` gives them.
    """

    max_range: int = 1 << 27
    alignment: int = 256
    max_allocation: int = 1 << 30
    max_groups: int = 65535
    shared_memory: int = 16384
    subgroup: int = 32
    bindings: int = 16
    invocations: int = 256
    cores: int = 0
    features: frozenset[str] = frozenset()
    avoided: frozenset[str] = frozenset()


KNOWN_LIMITS: Final[Mapping[str, Limits]] = {
    "default": Limits(),
    "h100": Limits(
        max_range=(1 << 32) - 1,
        alignment=16,
        max_allocation=0xFFE00000,
        shared_memory=48 << 10,
        bindings=1 << 20,
        invocations=1024,
        cores=132,
        features=frozenset(
            {
                "integer_dot_product",
                "cooperative_matrix_s8",
                "cooperative_matrix_f16",
                "cooperative_matrix2_f16",
                "full_subgroups",
                "subgroup_shuffle",
            }
        ),
    ),
    "lavapipe": Limits(
        alignment=16,
        max_allocation=1 << 31,
        shared_memory=32 << 10,
        subgroup=8,
        bindings=32,
        invocations=1024,
        features=frozenset({"integer_dot_product", "full_subgroups", "subgroup_shuffle"}),
    ),
}
"""Limits to plan for without the device: those of every Vulkan 1.3 device, of an NVIDIA H100, and
of Mesa's CPU driver. Of the features, those that lowering asks for."""
