"""What lowering and planning need to know of a device, and nothing more."""

from dataclasses import dataclass


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
        features: names of optional abilities, such as "cooperative_matrix".
    """

    max_range: int = 1 << 27
    alignment: int = 256
    max_allocation: int = 1 << 30
    max_groups: int = 65535
    shared_memory: int = 16384
    subgroup: int = 32
    bindings: int = 16
    features: frozenset[str] = frozenset()
