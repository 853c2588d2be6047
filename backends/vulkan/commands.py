"""A command buffer with the pool it comes from, and the barriers between what it holds."""

from typing import Any

from .api import NULL, check, create, ffi, lib, struct

_COMPUTE = lib.VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT
_TRANSFER = lib.VK_PIPELINE_STAGE_TRANSFER_BIT
_HOST = lib.VK_PIPELINE_STAGE_HOST_BIT
_SHADER = lib.VK_ACCESS_SHADER_READ_BIT | lib.VK_ACCESS_SHADER_WRITE_BIT
_COPY = lib.VK_ACCESS_TRANSFER_READ_BIT | lib.VK_ACCESS_TRANSFER_WRITE_BIT
_WRITES = lib.VK_ACCESS_SHADER_WRITE_BIT | lib.VK_ACCESS_TRANSFER_WRITE_BIT


class CommandBuffer:
    """One command buffer of its own pool."""

    def __init__(self, device: Any, family: int) -> None:
        self._device = device
        info = struct("VkCommandPoolCreateInfo", queueFamilyIndex=family)
        self._pool = create(lib.vkCreateCommandPool, "VkCommandPool", device, info, NULL)
        allocation = struct(
            "VkCommandBufferAllocateInfo", commandPool=self._pool, commandBufferCount=1
        )
        handle = ffi.new("VkCommandBuffer *")
        result = lib.vkAllocateCommandBuffers(device, allocation, handle)
        if result:
            self.close()
        check(result, "allocating a command buffer")
        self.handle = handle[0]

    def begin(self, reusable: bool = False) -> None:
        """Start recording afresh, after everything that the queue was given before.

        Args:
            reusable: it may be submitted again, even while it is still running.
        """
        check(lib.vkResetCommandPool(self._device, self._pool, 0), "resetting a command buffer")
        usage = (
            lib.VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT
            if reusable
            else lib.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT
        )
        info = struct("VkCommandBufferBeginInfo", flags=usage)
        check(lib.vkBeginCommandBuffer(self.handle, info), "starting a command buffer")
        self._barrier(_COMPUTE | _TRANSFER, _COMPUTE | _TRANSFER, _WRITES, _SHADER | _COPY)

    def end(self) -> None:
        """Finish recording; once it has run, the host sees what it wrote."""
        self._barrier(_COMPUTE | _TRANSFER, _HOST, _WRITES, lib.VK_ACCESS_HOST_READ_BIT)
        check(lib.vkEndCommandBuffer(self.handle), "recording a command buffer")

    def close(self) -> None:
        """Destroy the pool and with it the command buffer, which must not be running."""
        if self._pool != NULL:
            lib.vkDestroyCommandPool(self._device, self._pool, NULL)
            self._pool = NULL

    def _barrier(self, before: int, after: int, written: int, used: int) -> None:
        barrier = struct("VkMemoryBarrier", srcAccessMask=written, dstAccessMask=used)
        lib.vkCmdPipelineBarrier(self.handle, before, after, 0, 1, barrier, 0, NULL, 0, NULL)


def compute_barrier() -> tuple[Any, ...]:
    """Arguments of `vkCmdPipelineBarrier`, without the command buffer, between two dispatches."""
    barrier = struct(
        "VkMemoryBarrier", srcAccessMask=lib.VK_ACCESS_SHADER_WRITE_BIT, dstAccessMask=_SHADER
    )
    return _COMPUTE, _COMPUTE, 0, 1, barrier, 0, NULL, 0, NULL
