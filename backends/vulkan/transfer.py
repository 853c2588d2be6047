"""Moving bytes between host and device through a ring of mapped staging buffers."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .allocation import Allocator, Memory
from .api import ffi, lib
from .buffers import DeviceBuffer
from .commands import CommandBuffer
from .errors import DeviceError
from .queue import Queue, Ticket

Bytes: TypeAlias = npt.NDArray[np.uint8]

CHUNK = 16 << 20
"""Bytes of a staging buffer."""
_SLOTS = 2
_COPIERS = 4
"""Threads that copy what was read: the first touch of a new page costs more than its bytes."""
_ALIGNMENT = 16


@dataclass(frozen=True)
class Region:
    """A byte range of a buffer to read; `size` None means up to its end."""

    buffer: DeviceBuffer
    offset: int = 0
    size: int | None = None

    @property
    def length(self) -> int:
        """The number of bytes."""
        return self.buffer.size - self.offset if self.size is None else self.size


@dataclass
class _Slot:
    """A staging buffer, the copies collected for it and the submission that last used it."""

    staging: DeviceBuffer
    commands: CommandBuffer
    used: int = 0
    copies: list[tuple[DeviceBuffer, int, int, int]] = field(default_factory=list)
    ticket: Ticket | None = None


class Transfers:
    """Copies of a device, submitted in order with everything else on its queue."""

    def __init__(self, allocator: Allocator, queue: Queue, family: int) -> None:
        self._allocator, self._queue, self._family = allocator, queue, family
        self._slots: list[_Slot] = []
        self._copiers = ThreadPoolExecutor(_COPIERS)  # starts threads when they are needed

    def upload(self, items: Iterable[tuple[DeviceBuffer, npt.NDArray[Any], int]]) -> None:
        """Copy arrays to byte offsets of buffers, many in one submission.

        Returns once the arrays have been read; what is submitted later sees the copies.

        Raises:
            DeviceError: an array does not fit its buffer.
        """
        slots = self._ring()
        slot = slots[0]
        for buffer, array, offset in items:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            _check_range(Region(buffer, offset, data.size))
            position = 0
            while position < data.size:
                if slot.used >= CHUNK:
                    self._send(slot)
                    slots.rotate(-1)
                    slot = slots[0]
                    self._reuse(slot)
                count = min(CHUNK - slot.used, data.size - position)
                slot.staging.view[slot.used : slot.used + count] = data[position : position + count]
                slot.copies.append((buffer, slot.used, offset + position, count))
                slot.used = -(-(slot.used + count) // _ALIGNMENT) * _ALIGNMENT
                position += count
        self._send(slot)

    def download(self, regions: Sequence[Region]) -> list[Bytes]:
        """The bytes of regions, after everything submitted before is done.

        Raises:
            DeviceError: a region does not lie in its buffer.
        """
        for region in regions:
            _check_range(region)
        results = [np.empty(region.length, np.uint8) for region in regions]
        slots = self._ring()
        pending: deque[tuple[_Slot, list[Callable[[], None]]]] = deque()
        slot, drains = slots[0], list[Callable[[], None]]()
        for region, result in zip(regions, results, strict=True):
            position = 0
            while position < region.length:
                if slot.used >= CHUNK:
                    self._send(slot, to_device=False)
                    pending.append((slot, drains))
                    slots.rotate(-1)
                    slot, drains = slots[0], []
                    if len(pending) == len(slots):
                        self._drain(*pending.popleft())
                count = min(CHUNK - slot.used, region.length - position)
                slot.copies.append((region.buffer, slot.used, region.offset + position, count))
                drains.append(_drainer(slot.staging, slot.used, result, position, count))
                slot.used = -(-(slot.used + count) // _ALIGNMENT) * _ALIGNMENT
                position += count
        self._send(slot, to_device=False)
        pending.append((slot, drains))
        for item in pending:
            self._drain(*item)
        return results

    def fill(self, buffers: Iterable[DeviceBuffer], word: int = 0) -> None:
        """Fill whole buffers with a 32-bit word, in one submission."""
        slot = self._ring()[0]
        slot.commands.begin()
        for buffer in buffers:
            _check_range(Region(buffer))
            lib.vkCmdFillBuffer(slot.commands.handle, buffer.handle, 0, buffer.padded_size, word)
        slot.commands.end()
        slot.ticket = self._queue.submit(slot.commands.handle, "a fill")

    def close(self) -> None:
        """Free the staging buffers; the device must be idle."""
        self._copiers.shutdown()
        for slot in self._slots:
            slot.commands.close()
            slot.staging.close()
        self._slots.clear()

    def _ring(self) -> "deque[_Slot]":
        """The slots, the first ready for use; created when first needed."""
        while len(self._slots) < _SLOTS:
            staging = DeviceBuffer(self._allocator, "staging", CHUNK, Memory.HOST)
            try:
                commands = CommandBuffer(self._allocator.device, self._family)
            except BaseException:
                staging.close()
                raise
            self._slots.append(_Slot(staging, commands))
        for slot in self._slots:
            self._reuse(slot)
        return deque(self._slots)

    def _reuse(self, slot: _Slot) -> None:
        if slot.ticket is not None:
            slot.ticket.wait()
        slot.ticket, slot.used = None, 0
        slot.copies.clear()

    def _send(self, slot: _Slot, to_device: bool = True) -> None:
        if not slot.copies:
            return
        slot.commands.begin()
        for buffer, staged, offset, size in slot.copies:
            ends = (staged, offset) if to_device else (offset, staged)
            region = ffi.new("VkBufferCopy *", [*ends, size])
            handles = (slot.staging.handle, buffer.handle)
            source, target = handles if to_device else handles[::-1]
            lib.vkCmdCopyBuffer(slot.commands.handle, source, target, 1, region)
        slot.commands.end()
        slot.ticket = self._queue.submit(slot.commands.handle, "a copy")

    def _drain(self, slot: _Slot, drains: list[Callable[[], None]]) -> None:
        if slot.ticket is not None:
            slot.ticket.wait()
        if len(drains) > _COPIERS:
            list(self._copiers.map(_run_all, [drains[k::_COPIERS] for k in range(_COPIERS)]))
        else:
            _run_all(drains)
        self._reuse(slot)


def _drainer(
    staging: DeviceBuffer, staged: int, result: Bytes, position: int, count: int
) -> Callable[[], None]:
    def drain() -> None:
        result[position : position + count] = staging.view[staged : staged + count]

    return drain


def _run_all(drains: Sequence[Callable[[], None]]) -> None:
    for drain in drains:
        drain()


def _check_range(region: Region) -> None:
    buffer = region.buffer
    if buffer.place is None:
        raise DeviceError(f"buffer %{buffer.name} is closed")
    if region.offset < 0 or region.length < 0 or region.offset + region.length > buffer.size:
        raise DeviceError(
            f"bytes {region.offset} to {region.offset + region.length} are not all in buffer "
            f"%{buffer.name} of {buffer.size} bytes"
        )
