"""Device memory: few large allocations, each shared by many buffers.

A buffer of at least half a block gets an allocation of its own; smaller ones share blocks. That
keeps a model far below the number of allocations that drivers allow, which may be only 4096.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from threading import Lock
from typing import Any

from ...graph.sizes import binary_size
from .api import NULL, check, ffi, lib, struct
from .errors import DeviceError, OutOfDeviceMemory
from .info import DeviceInfo

BLOCK = 64 << 20
"""Bytes of a block that small buffers share."""


class Memory(StrEnum):
    """Where a buffer lives."""

    DEVICE = "device"
    """Fast for the device; the host reaches it by copies only."""
    HOST = "host"
    """Mapped for the host, and bound to kernels for small results that the host reads."""


class FreeList:
    """Free ranges of a block, first fit."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.ranges = [(0, size)]

    def take(self, size: int, alignment: int) -> int | None:
        """The offset of a range, a multiple of `alignment`, or None where none is free."""
        for index, (start, end) in enumerate(self.ranges):
            offset = -(-start // alignment) * alignment
            if offset + size <= end:
                parts = [(start, offset), (offset + size, end)]
                self.ranges[index : index + 1] = [p for p in parts if p[0] < p[1]]
                return offset
        return None

    def give(self, offset: int, size: int) -> None:
        """Take a range back and join it with its neighbours."""
        joined: list[tuple[int, int]] = []
        for start, end in sorted([*self.ranges, (offset, offset + size)]):
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        self.ranges = joined

    @property
    def empty(self) -> bool:
        """Whether nothing is taken."""
        return self.ranges == [(0, self.size)]


@dataclass(eq=False)
class Block:
    """One allocation; `mapped` is its address for the host, NULL where it has none."""

    handle: Any
    memory_type: int
    free: FreeList
    mapped: Any = NULL


@dataclass(frozen=True)
class Place:
    """A range of a block."""

    block: Block
    offset: int
    size: int


@dataclass(frozen=True)
class HeapUse:
    """Bytes of a heap.

    Attributes:
        size: of the heap.
        device_local: whether it is the device's own.
        allocated: by this device object.
        used: by this process as the driver reports it, or `allocated` if it does not report.
        budget: what the process may use as the driver reports it, or `size`.
        reported: whether the driver does report.
    """

    size: int
    device_local: bool
    allocated: int
    used: int
    budget: int
    reported: bool


@dataclass
class Allocator:
    """Finds places for buffers."""

    physical: Any
    device: Any
    info: DeviceInfo
    blocks: list[Block] = field(default_factory=list)
    _lock: Any = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._memory = ffi.new("VkPhysicalDeviceMemoryProperties *")
        lib.vkGetPhysicalDeviceMemoryProperties(self.physical, self._memory)

    def place(self, requirements: Any, memory: Memory, what: str) -> Place:
        """A place for something with these VkMemoryRequirements.

        Args:
            requirements: size, alignment and the memory types allowed.
            memory: where it is to live.
            what: for error messages.

        Raises:
            OutOfDeviceMemory: it does not fit.
        """
        kind = self._memory_type(requirements.memoryTypeBits, memory)
        size, alignment = requirements.size, requirements.alignment
        with self._lock:
            if size < BLOCK // 2:
                for block in self.blocks:
                    if block.memory_type == kind:
                        offset = block.free.take(size, alignment)
                        if offset is not None:
                            return Place(block, offset, size)
            block = self._allocate(size, kind, what)
            block.free.take(size, 1)
            return Place(block, 0, size)

    def release(self, place: Place) -> None:
        """Give a place back; a block that is empty then goes back to the driver."""
        with self._lock:
            place.block.free.give(place.offset, place.size)
            if place.block.free.empty:
                self.blocks.remove(place.block)
                lib.vkFreeMemory(self.device, place.block.handle, NULL)

    def use(self) -> tuple[HeapUse, ...]:
        """What each heap holds."""
        allocated = [0] * len(self.info.heaps)
        for block in self.blocks:
            allocated[self._memory.memoryTypes[block.memory_type].heapIndex] += block.free.size
        reported = "VK_EXT_memory_budget" in self.info.extensions
        budget = struct("VkPhysicalDeviceMemoryBudgetPropertiesEXT")
        chain = struct("VkPhysicalDeviceMemoryProperties2", pNext=budget if reported else NULL)
        lib.vkGetPhysicalDeviceMemoryProperties2(self.physical, chain)
        return tuple(
            HeapUse(
                heap.size,
                heap.device_local,
                allocated[i],
                budget.heapUsage[i] if reported else allocated[i],
                budget.heapBudget[i] if reported else heap.size,
                reported,
            )
            for i, heap in enumerate(self.info.heaps)
        )

    def _memory_type(self, allowed: int, memory: Memory) -> int:
        local = lib.VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
        mapped = lib.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | lib.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT
        cached = mapped | lib.VK_MEMORY_PROPERTY_HOST_CACHED_BIT
        for wanted in (local, 0) if memory is Memory.DEVICE else (cached, mapped):
            for index in range(self._memory.memoryTypeCount):
                flags = self._memory.memoryTypes[index].propertyFlags
                if allowed >> index & 1 and flags & wanted == wanted:
                    return index
        raise DeviceError(f"{self.info.name} has no {memory} memory for buffers")

    def _allocate(self, size: int, kind: int, what: str) -> Block:
        """A new block, of `BLOCK` bytes for something small, else of just its size."""
        heap = self._memory.memoryTypes[kind].heapIndex
        use = self.use()[heap]
        free = max(0, min(use.budget - use.used, use.size - use.allocated))
        wanted = BLOCK if size < BLOCK // 2 and free >= BLOCK else size
        handle = ffi.new("VkDeviceMemory *")
        result = lib.VK_ERROR_OUT_OF_DEVICE_MEMORY
        # A budget is advice that a driver may exceed; the heap's size is not.
        if use.allocated + wanted <= use.size:
            info = struct("VkMemoryAllocateInfo", allocationSize=wanted, memoryTypeIndex=kind)
            result = lib.vkAllocateMemory(self.device, info, NULL, handle)
        if result in _OUT_OF_MEMORY:
            raise OutOfDeviceMemory(
                f"{what} needs {binary_size(size)} and {self.info.name} has "
                f"{binary_size(free)} free of {binary_size(use.size)}; use a smaller batch, a "
                "shorter sequence or a smaller memory budget, or close what else uses the device",
                size,
                free,
            )
        check(result, f"allocating {binary_size(wanted)} for {what}")
        block = Block(handle[0], kind, FreeList(wanted))
        self.blocks.append(block)
        self._map(block)
        return block

    def _map(self, block: Block) -> None:
        flags = self._memory.memoryTypes[block.memory_type].propertyFlags
        if flags & lib.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT:
            address = ffi.new("void **")
            arguments = (self.device, block.handle, 0, block.free.size, 0, address)
            check(lib.vkMapMemory(*arguments), "mapping memory")
            block.mapped = ffi.cast("uint8_t *", address[0])


_OUT_OF_MEMORY = (
    lib.VK_ERROR_OUT_OF_DEVICE_MEMORY,
    lib.VK_ERROR_OUT_OF_HOST_MEMORY,
    lib.VK_ERROR_TOO_MANY_OBJECTS,
)
