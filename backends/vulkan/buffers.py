"""Buffers on the device."""

from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from ...graph.sizes import binary_size
from .allocation import Allocator, Memory, Place
from .api import NULL, check, create, ffi, lib, name_object, struct
from .errors import DeviceError


class DeviceBuffer:
    """A range of device memory that kernels, copies and, if mapped, the host can use.

    Attributes:
        name: for error messages.
        size: in bytes, as asked for; what Vulkan holds is rounded up to whole words.
        memory: where it lives.
        handle: the VkBuffer, NULL once closed.
        users: recordings that refer to it; closing the buffer ends them.
    """

    def __init__(self, allocator: Allocator, name: str, size: int, memory: Memory) -> None:
        """Create; see `Device.buffer`."""
        largest = allocator.info.limits.allocation
        if size <= 0:
            raise DeviceError(f"buffer %{name} has {size} bytes; a buffer needs at least one")
        if size > largest:
            raise DeviceError(
                f"buffer %{name} of {binary_size(size)} exceeds the largest allocation of "
                f"{allocator.info.name}, {binary_size(largest)}; split it"
            )
        self.name, self.size, self.memory = name, size, memory
        self.users: WeakSet[Any] = WeakSet()
        self._allocator = allocator
        info = struct("VkBufferCreateInfo", size=self.padded_size, usage=_USAGE)
        self.handle = create(lib.vkCreateBuffer, "VkBuffer", allocator.device, info, NULL)
        name_object(allocator.device, lib.VK_OBJECT_TYPE_BUFFER, self.handle, f"%{name}")
        self.place: Place | None = None
        try:
            self.place = self._bind()
        except BaseException:
            self.close()
            raise

    @property
    def padded_size(self) -> int:
        """The size in whole words of 4 bytes."""
        return -(-self.size // 4) * 4

    @property
    def view(self) -> npt.NDArray[np.uint8]:
        """The bytes as the host sees them; only while the buffer lives, only in host memory.

        Raises:
            DeviceError: the buffer is not mapped or closed.
        """
        if self.memory is not Memory.HOST or self.place is None:
            raise DeviceError(f"buffer %{self.name} is not mapped for the host; download it")
        address = self.place.block.mapped + self.place.offset
        return np.frombuffer(ffi.buffer(address, self.padded_size), np.uint8)[: self.size]

    def close(self) -> None:
        """Free the memory; the device must be done with it (`Device.wait`)."""
        if self.handle == NULL:
            return
        for user in list(self.users):
            user.close()
        lib.vkDestroyBuffer(self._allocator.device, self.handle, NULL)
        self.handle = NULL
        if self.place is not None:
            self._allocator.release(self.place)
            self.place = None

    def _bind(self) -> Place:
        device = self._allocator.device
        requirements = ffi.new("VkMemoryRequirements *")
        lib.vkGetBufferMemoryRequirements(device, self.handle, requirements)
        place = self._allocator.place(requirements, self.memory, f"buffer %{self.name}")
        result = lib.vkBindBufferMemory(device, self.handle, place.block.handle, place.offset)
        if result:
            self._allocator.release(place)
        check(result, f"binding buffer %{self.name}")
        return place


_USAGE = (
    lib.VK_BUFFER_USAGE_STORAGE_BUFFER_BIT
    | lib.VK_BUFFER_USAGE_TRANSFER_SRC_BIT
    | lib.VK_BUFFER_USAGE_TRANSFER_DST_BIT
)
