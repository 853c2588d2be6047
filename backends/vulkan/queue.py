"""Submitting command buffers and waiting for them.

A timeline semaphore counts: submission number n is done once it has reached n (Vulkan 1.3,
section 7.4.1 "Timeline semaphores").
"""

import time
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from .api import NULL, check, create, ffi, lib, struct
from .errors import DeviceError, DeviceLost

MOST_REPEATS = 64
"""Times that a command buffer may run in one submission."""

_SLICE = 0.1
"""Seconds of a wait inside the driver, so that Ctrl-C is heard in between."""


@dataclass
class Queue:
    """A device's one queue.

    Attributes:
        submitted: how many submissions there were, all kinds.
        lost: whether the device is gone; every later submission then fails at once.
    """

    device: Any
    handle: Any
    submitted: int = 0
    lost: bool = False
    _lock: Any = field(default_factory=Lock)

    def __post_init__(self) -> None:
        kind = struct("VkSemaphoreTypeCreateInfo", semaphoreType=lib.VK_SEMAPHORE_TYPE_TIMELINE)
        info = struct("VkSemaphoreCreateInfo", pNext=kind)
        self._semaphore = create(lib.vkCreateSemaphore, "VkSemaphore", self.device, info, NULL)
        self._semaphores = ffi.new("VkSemaphore[1]", [self._semaphore])
        self._value = ffi.new("uint64_t *")
        self._commands = ffi.new("VkCommandBuffer[]", MOST_REPEATS)
        timeline = struct(
            "VkTimelineSemaphoreSubmitInfo",
            signalSemaphoreValueCount=1,
            pSignalSemaphoreValues=self._value,
        )
        self._submission = struct(
            "VkSubmitInfo",
            pNext=timeline,
            commandBufferCount=1,
            pCommandBuffers=self._commands,
            signalSemaphoreCount=1,
            pSignalSemaphores=self._semaphores,
        )

    def submit(self, commands: Any, what: str, repeats: int = 1) -> "Ticket":
        """Start a VkCommandBuffer, perhaps several times, after all that was submitted before.

        Raises:
            DeviceLost: the device is gone.
        """
        with self._lock:
            if self.lost:
                raise DeviceLost(f"{what} cannot start: the device was lost; start again")
            if not 1 <= repeats <= MOST_REPEATS:
                raise DeviceError(f"{what} cannot be submitted {repeats} times at once")
            for k in range(repeats):
                self._commands[k] = commands
            self._submission.commandBufferCount = repeats
            self._value[0] = self.submitted + 1
            result = lib.vkQueueSubmit(self.handle, 1, self._submission, NULL)
            self._check(result, f"submitting {what}")
            self.submitted += 1
            return Ticket(self, self.submitted, what)

    def done(self, number: int) -> bool:
        """Whether a submission is done."""
        value = ffi.new("uint64_t *")
        result = lib.vkGetSemaphoreCounterValue(self.device, self._semaphore, value)
        self._check(result, "asking how far the device is")
        return bool(value[0] >= number)

    def wait(self, number: int, what: str, timeout: float | None = None) -> None:
        """Wait for a submission; see `Ticket.wait`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        info = struct(
            "VkSemaphoreWaitInfo",
            semaphoreCount=1,
            pSemaphores=self._semaphores,
            pValues=ffi.new("uint64_t[1]", [number]),
        )
        while True:
            left = _SLICE if deadline is None else deadline - time.monotonic()
            nanoseconds = int(max(0.0, min(left, _SLICE)) * 1e9)
            result = lib.vkWaitSemaphores(self.device, info, nanoseconds)
            if result != lib.VK_TIMEOUT:
                return self._check(result, f"waiting for {what}")
            if deadline is not None and time.monotonic() >= deadline:
                raise DeviceError(f"{what} was not done within {timeout:g} s; give it less work")

    def drain(self) -> None:
        """Wait for all submissions; a device that is gone has none left."""
        if self.submitted and not self.lost:
            self.wait(self.submitted, "the device")

    def close(self) -> None:
        """Destroy the semaphore; the device must be idle."""
        lib.vkDestroySemaphore(self.device, self._semaphore, NULL)

    def _check(self, result: int, doing: str) -> None:
        self.lost = self.lost or result == lib.VK_ERROR_DEVICE_LOST
        check(result, doing)


@dataclass(frozen=True)
class Ticket:
    """A submission on its way."""

    queue: Queue
    number: int
    what: str

    @property
    def done(self) -> bool:
        """Whether the device has finished it."""
        return self.queue.done(self.number)

    def wait(self, timeout: float | None = None) -> None:
        """Return once the device has finished it.

        Args:
            timeout: seconds to wait at most; None waits for ever.

        Raises:
            DeviceLost: the device is gone.
            DeviceError: the time is up.
        """
        self.queue.wait(self.number, self.what, timeout)
