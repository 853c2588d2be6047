"""A schedule as one command buffer, recorded once and submitted many times."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .api import NULL, check, create, ffi, lib, struct
from .buffers import DeviceBuffer
from .checks import check_dispatches, check_schedule
from .commands import CommandBuffer, compute_barrier
from .errors import DeviceError
from .pipelines import Key, Pipeline
from .queue import Ticket
from .schedule import Barrier, Dispatch, Schedule, Slice

if TYPE_CHECKING:
    from .device import Device

_INFO = np.dtype([("buffer", "<u8"), ("offset", "<u8"), ("range", "<u8")])
"""VkDescriptorBufferInfo."""
_WRITE = np.dtype(
    [
        ("s_type", "<u8"),
        ("next", "<u8"),
        ("set", "<u8"),
        ("binding", "<u4"),
        ("element", "<u4"),
        ("count", "<u4"),
        ("kind", "<u4"),
        ("images", "<u8"),
        ("infos", "<u8"),
        ("texels", "<u8"),
    ]
)
"""VkWriteDescriptorSet on a little-endian host: its sType is followed by four bytes of padding.

Every byte is in a field, because NumPy does not copy what lies between fields.
"""


class Recording:
    """A schedule ready to be submitted, any number of times.

    Attributes:
        name: of the schedule.
    """

    def __init__(
        self,
        device: "Device",
        schedule: Schedule,
        buffers: Mapping[str, DeviceBuffer],
        profile: bool = False,
        together: bool = False,
    ) -> None:
        """Record; see `Device.record`."""
        self.name, self._timed = schedule.name, _timed(schedule, together)
        self._device = device
        self._ticket: Ticket | None = None
        self._open = True
        self._pool: Any = NULL
        self._queries: Any = NULL
        self._commands: CommandBuffer | None = None
        check_schedule(schedule, buffers, device.info)
        pipelines = device.pipelines.prepare(map(_key, schedule.dispatches))
        check_dispatches(schedule, pipelines, device.info)
        try:
            self._sets, self._pool = _describe(device.handle, schedule, buffers, pipelines)
            self._queries = self._query_pool() if profile else NULL
            self._commands = CommandBuffer(device.handle, device.info.compute_family)
            self._record(schedule, pipelines)
        except BaseException:
            self.close()
            raise
        for buffer in schedule.buffers:
            buffers[buffer.name].users.add(self)

    @property
    def is_open(self) -> bool:
        """Whether it can be submitted: neither closed nor without a buffer it needs."""
        return self._open

    def submit(self, repeats: int = 1) -> Ticket:
        """Start it, perhaps several times, after everything submitted before."""
        if not self._open or self._commands is None:
            raise DeviceError(f"@{self.name} is closed, or a buffer it uses is; record it again")
        self._ticket = self._device.queue.submit(self._commands.handle, f"@{self.name}", repeats)
        return self._ticket

    def seconds(self) -> list[tuple[str, float]]:
        """Label and seconds of each dispatch of the last submission, once it is done.

        Of dispatches that are timed together there is one entry, with the label of the first.

        Raises:
            DeviceError: it was not recorded with `profile`, or never submitted.
        """
        if self._queries == NULL or self._ticket is None:
            raise DeviceError(
                f"@{self.name} has no timings; record it with profile=True and run it"
            )
        self._ticket.wait()
        count = len(self._timed) + 1
        times = np.empty(count, np.uint64)
        flags = lib.VK_QUERY_RESULT_64_BIT | lib.VK_QUERY_RESULT_WAIT_BIT
        pointer = ffi.cast("void *", times.ctypes.data)
        result = lib.vkGetQueryPoolResults(
            self._device.handle, self._queries, 0, count, times.nbytes, pointer, 8, flags
        )
        check(result, f"reading the timings of @{self.name}")
        elapsed = np.diff(times).astype(np.float64) * self._device.info.limits.timestamp_period
        return list(zip(self._timed.values(), (elapsed * 1e-9).tolist(), strict=True))

    def close(self) -> None:
        """Wait until it is not running, and free what it holds."""
        if not self._open:
            return
        self._open = False
        if self._ticket is not None and not self._device.queue.lost:
            self._ticket.wait()
        device = self._device.handle
        if self._commands is not None:
            self._commands.close()
        if self._pool != NULL:
            lib.vkDestroyDescriptorPool(device, self._pool, NULL)
        if self._queries != NULL:
            lib.vkDestroyQueryPool(device, self._queries, NULL)
        self._device.forget(self)

    def _query_pool(self) -> Any:
        if not self._device.info.limits.timestamp_period:
            raise DeviceError(f"{self._device.info.name} has no timestamps; run without profile")
        info = struct(
            "VkQueryPoolCreateInfo",
            queryType=lib.VK_QUERY_TYPE_TIMESTAMP,
            queryCount=len(self._timed) + 1,
        )
        return create(lib.vkCreateQueryPool, "VkQueryPool", self._device.handle, info, NULL)

    def _record(self, schedule: Schedule, pipelines: Mapping[Key, Pipeline]) -> None:
        assert self._commands is not None
        self._commands.begin(reusable=True)
        handle = self._commands.handle
        stamp = self._stamper(handle)
        barrier = compute_barrier()
        compute = lib.VK_PIPELINE_BIND_POINT_COMPUTE
        bind_pipeline, bind_sets = lib.vkCmdBindPipeline, lib.vkCmdBindDescriptorSets
        dispatch, pipeline_barrier = lib.vkCmdDispatch, lib.vkCmdPipelineBarrier
        bound, index, stamps = None, 0, 1
        stamp(0)
        for command in schedule.commands:
            if isinstance(command, Barrier):
                pipeline_barrier(handle, *barrier)
                continue
            pipeline = pipelines[_key(command)]
            if pipeline is not bound:
                bind_pipeline(handle, compute, pipeline.handle)
                bound = pipeline
            bind_sets(handle, compute, pipeline.layout, 0, 1, self._sets + index, 0, NULL)
            dispatch(handle, *command.groups)
            if index in self._timed:
                stamp(stamps)
                stamps += 1
            index += 1
        self._commands.end()

    def _stamper(self, handle: Any) -> Any:
        """A function that writes the time when all before it is done; it does nothing unprofiled.

        A barrier precedes each, so that what is timed is alone.
        """
        if self._queries == NULL:
            return lambda number: None
        lib.vkCmdResetQueryPool(handle, self._queries, 0, len(self._timed) + 1)
        barrier, stage = compute_barrier(), lib.VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT

        def stamp(number: int) -> None:
            lib.vkCmdPipelineBarrier(handle, *barrier)
            lib.vkCmdWriteTimestamp(handle, stage, self._queries, number)

        return stamp


def _timed(schedule: Schedule, together: bool) -> dict[int, str]:
    """Dispatches behind which the time is taken, by their number, and labels of what it is of."""
    if not together:
        return dict(enumerate(dispatch.label for dispatch in schedule.dispatches))
    timed: dict[int, str] = {}
    first, index = "", -1
    for command in (*schedule.commands, Barrier()):
        if isinstance(command, Dispatch):
            first, index = first or command.label, index + 1
        elif first:
            timed[index], first = first, ""
    return timed


def _key(dispatch: Dispatch) -> Key:
    return dispatch.kernel, dispatch.specialization


def _describe(
    device: Any,
    schedule: Schedule,
    buffers: Mapping[str, DeviceBuffer],
    pipelines: Mapping[Key, Pipeline],
) -> tuple[Any, Any]:
    """A descriptor set for each dispatch, in an array, and the pool they are from."""
    dispatches = schedule.dispatches
    slices = [binding.slice for d in dispatches for binding in d.bindings]
    if not dispatches:
        return ffi.new("VkDescriptorSet[1]"), NULL
    pool = _descriptor_pool(device, len(dispatches), len(slices))
    try:
        layouts = [pipelines[_key(d)].set_layout for d in dispatches]
        info = struct(
            "VkDescriptorSetAllocateInfo",
            descriptorPool=pool,
            descriptorSetCount=len(layouts),
            pSetLayouts=ffi.new("VkDescriptorSetLayout[]", layouts),
        )
        sets = ffi.new("VkDescriptorSet[]", len(layouts))
        check(lib.vkAllocateDescriptorSets(device, info, sets), "allocating descriptor sets")
        _write_sets(device, sets, [len(d.bindings) for d in dispatches], slices, buffers)
    except BaseException:
        lib.vkDestroyDescriptorPool(device, pool, NULL)
        raise
    return sets, pool


def _descriptor_pool(device: Any, sets: int, descriptors: int) -> Any:
    size = struct(
        "VkDescriptorPoolSize",
        type=lib.VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
        descriptorCount=max(1, descriptors),
    )
    info = struct("VkDescriptorPoolCreateInfo", maxSets=sets, poolSizeCount=1, pPoolSizes=size)
    return create(lib.vkCreateDescriptorPool, "VkDescriptorPool", device, info, NULL)


def _write_sets(
    device: Any,
    sets: Any,
    counts: Sequence[int],
    slices: Sequence[Slice],
    buffers: Mapping[str, DeviceBuffer],
) -> None:
    """Point each set's bindings at their slices.

    One write covers a whole set: it goes on to the next bindings (Vulkan 1.3, section 14.2.4
    "Descriptor Set Updates"). The structures are laid out by NumPy, as cffi is slow at thousands.
    """
    handles = {name: int(ffi.cast("uintptr_t", b.handle)) for name, b in buffers.items()}
    infos = np.empty(len(slices), _INFO)
    infos["buffer"] = [handles[s.buffer] for s in slices]
    infos["offset"] = [s.offset for s in slices]
    infos["range"] = [-(-s.size // 4) * 4 for s in slices]
    sizes = np.array(counts, np.uint64)
    first = np.cumsum(sizes) - sizes
    writes = np.zeros(len(counts), _WRITE)
    writes["s_type"] = lib.VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET
    writes["set"] = np.frombuffer(ffi.buffer(sets), np.uint64)
    writes["count"] = sizes
    writes["kind"] = lib.VK_DESCRIPTOR_TYPE_STORAGE_BUFFER
    writes["infos"] = np.uint64(infos.ctypes.data) + first * np.uint64(_INFO.itemsize)
    writes = writes[sizes > 0]
    pointer = ffi.cast("VkWriteDescriptorSet *", writes.ctypes.data)
    lib.vkUpdateDescriptorSets(device, len(writes), pointer, 0, NULL)
