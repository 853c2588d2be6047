"""What can go wrong on a device."""

from ...graph.errors import BitgraphError


class DeviceError(BitgraphError):
    """The device or its driver refused something."""


class OutOfDeviceMemory(DeviceError):  # noqa: N818 - named as Vulkan names it
    """A buffer does not fit.

    Attributes:
        needed: bytes of the allocation that failed.
        free: bytes left on that heap as far as is known.
    """

    def __init__(self, message: str, needed: int, free: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free


class DeviceLost(DeviceError):  # noqa: N818 - named as Vulkan names it
    """The device stopped working in the middle of a run; what was on it is gone."""
