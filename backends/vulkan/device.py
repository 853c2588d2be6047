"""A device opened for work: buffers, kernels, recordings, submissions."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt

from ... import shaders as builtin_shaders
from ...graph.errors import BitgraphError
from ...graph.storage import cache_folder
from . import features
from .allocation import Allocator, HeapUse, Memory
from .api import NULL, check, ffi, lib, strings, struct
from .buffers import DeviceBuffer
from .errors import DeviceError
from .info import DeviceInfo
from .instance import Instance, validation_wanted
from .pipelines import Pipeline, Pipelines, Value
from .query import describe
from .queue import Queue, Ticket
from .recorder import Recording
from .schedule import Schedule
from .transfer import Bytes, Region, Transfers

SHADERS = Path(str(builtin_shaders.__file__)).parent
MINIMUM_VERSION = (1, 2, 0)


class Device:
    """A device, open until `close` or the end of a `with` block.

    Attributes:
        info: what it is and can do.
        handle: the VkDevice.
        queue: its one queue.
        pipelines: its kernels.
        cache: folder of what is kept between runs.
    """

    def __init__(
        self,
        info: DeviceInfo,
        validation: bool | None = None,
        synchronization: bool = False,
        shaders: Sequence[Path] = (),
        cache: Path | None = None,
    ) -> None:
        """Open; see `open`."""
        check_usable(info)
        wanted = validation_wanted() if validation is None else validation
        self._instance = Instance(wanted, synchronization)
        self.handle: Any = NULL
        self._recordings: set[Recording] = set()
        self._buffers: set[DeviceBuffer] = set()
        self._closers: list[Any] = [self._instance.close]
        try:
            self.cache = cache or cache_folder()
            self._start(info, [*shaders, SHADERS])
        except BaseException:
            self._close_parts()
            raise

    @classmethod
    def open(
        cls,
        info: DeviceInfo,
        *,
        validation: bool | None = None,
        synchronization: bool = False,
        shaders: Sequence[Path] = (),
        cache: Path | None = None,
    ) -> "Device":
        """Open a device.

        Args:
            info: from `list_devices` or `select_device`; only the features and extensions that it
                names are used.
            validation: check every call with the validation layer; None asks the environment
                variable BITGRAPH_VALIDATION.
            synchronization: check for missing barriers too; implies `validation`.
            shaders: folders searched for kernels before the package's own.
            cache: folder of compiled shaders and pipelines; the user's unless given.

        Raises:
            BitgraphError: the device is too old or gone, or validation is not installed.
        """
        return cls(info, validation, synchronization, shaders, cache)

    @property
    def messages(self) -> list[str]:
        """What the validation layer said; still there after `close`."""
        return self._instance.messages

    @property
    def submissions(self) -> int:
        """How many times work was submitted, copies included."""
        return self.queue.submitted

    def buffer(self, name: str, size: int, memory: Memory = Memory.DEVICE) -> DeviceBuffer:
        """A new buffer of `size` bytes with arbitrary contents.

        Raises:
            OutOfDeviceMemory: it does not fit; it says how much is free.
            DeviceError: it exceeds the largest allocation.
        """
        buffer = DeviceBuffer(self._allocator, name, size, memory)
        self._buffers.add(buffer)
        return buffer

    def free(self, buffers: Iterable[DeviceBuffer]) -> None:
        """Close buffers, and recordings that use them, once the device is done with them."""
        self.wait()
        for buffer in list(buffers):
            buffer.close()
            self._buffers.discard(buffer)

    def upload(self, items: Iterable[tuple[DeviceBuffer, npt.NDArray[Any], int]]) -> None:
        """Copy arrays to byte offsets of buffers; ranges of one call must not overlap."""
        self._transfers.upload(items)

    def download(self, regions: Sequence[Region]) -> list[Bytes]:
        """The bytes of regions, after everything submitted before is done."""
        return self._transfers.download(regions)

    def fill(self, buffers: Iterable[DeviceBuffer], word: int = 0) -> None:
        """Fill whole buffers with a 32-bit word."""
        self._transfers.fill(buffers, word)

    def pipeline(self, kernel: str, specialization: Mapping[str, Value]) -> Pipeline:
        """A kernel with its specialization constants; made once."""
        return self.pipelines.get(kernel, specialization)

    def record(
        self,
        schedule: Schedule,
        buffers: Mapping[str, DeviceBuffer],
        profile: bool = False,
        together: bool = False,
    ) -> Recording:
        """Record a schedule.

        Args:
            schedule: what to run.
            buffers: one for each of the schedule's, at least as large.
            profile: time each dispatch, alone, which makes the whole slower.
            together: time those that no barrier parts as one, as they run without a profile.

        Raises:
            BitgraphError: the schedule does not fit its kernels, the buffers or the device; a
                kernel does not compile.
        """
        recording = Recording(self, schedule, buffers, profile, together)
        self._recordings.add(recording)
        return recording

    def submit(self, recording: Recording) -> Ticket:
        """Start a recording after everything submitted before.

        Raises:
            DeviceLost: the device is gone.
            DeviceError: the recording is closed.
        """
        return recording.submit()

    def wait(self) -> None:
        """Return once the device has nothing left to do."""
        self.queue.drain()

    def memory_report(self) -> tuple[HeapUse, ...]:
        """What each heap holds."""
        return self._allocator.use()

    def memory_used(self) -> int:
        """Bytes used of the device's own memory, as the driver reports it if it does."""
        return sum(heap.used for heap in self.memory_report() if heap.device_local)

    def forget(self, recording: Recording) -> None:
        """Drop a recording that is closed."""
        self._recordings.discard(recording)

    def close(self) -> None:
        """Wait for the device, then free everything that was made on it."""
        if self.handle == NULL:
            return
        try:
            self.wait()
        except DeviceError:
            # Nothing can be waited for one by one any more, only for the device as a whole.
            self.queue.lost = True
        lib.vkDeviceWaitIdle(self.handle)
        for recording in list(self._recordings):
            recording.close()
        for buffer in list(self._buffers):
            buffer.close()
        self._close_parts()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, info: DeviceInfo, folders: Sequence[Path]) -> None:
        self.info, physical = info, _find(self._instance, info)
        self.handle = _create_device(physical, self.info)
        self._closers.append(self._destroy)
        handle = ffi.new("VkQueue *")
        lib.vkGetDeviceQueue(self.handle, self.info.compute_family, 0, handle)
        self.queue = Queue(self.handle, handle[0])
        self._closers.append(self.queue.close)
        self.pipelines = Pipelines(self.handle, self.info, folders, self.cache)
        self._closers.append(self.pipelines.close)
        self._allocator = Allocator(physical, self.handle, self.info)
        self._transfers = Transfers(self._allocator, self.queue, self.info.compute_family)
        self._closers.append(self._transfers.close)

    def _close_parts(self) -> None:
        """Close what was opened, the last first."""
        while self._closers:
            self._closers.pop()()

    def _destroy(self) -> None:
        lib.vkDestroyDevice(self.handle, NULL)
        self.handle = NULL


def check_usable(info: DeviceInfo) -> None:
    """Refuse a device that cannot run the backend at all.

    Raises:
        BitgraphError: it is older than Vulkan 1.2, cannot compute or has no timeline semaphores.
    """
    if info.version < MINIMUM_VERSION or not info.features.timeline_semaphore:
        version = ".".join(map(str, info.version))
        raise BitgraphError(
            f"{info.name} has Vulkan {version}, but 1.2 with timeline semaphores is needed; "
            "update its driver"
        )
    if info.compute_family < 0:
        raise BitgraphError(f"{info.name} cannot compute; choose another device")


def _find(instance: Instance, info: DeviceInfo) -> Any:
    """The VkPhysicalDevice that `info` describes."""
    for index, physical in enumerate(instance.physical_devices()):
        found = describe(instance, index, physical)
        if (found.uuid, found.name, found.driver) == (info.uuid, info.name, info.driver):
            return physical
    raise BitgraphError(f"{info.name} is not there any more; run `bitgraph devices`")


def _create_device(physical: Any, info: DeviceInfo) -> Any:
    queue = struct(
        "VkDeviceQueueCreateInfo",
        queueFamilyIndex=info.compute_family,
        queueCount=1,
        pQueuePriorities=ffi.new("float[1]", [1.0]),
    )
    chain, extensions = features.enable(info.features, info.version, set(info.extensions))
    create_info = struct(
        "VkDeviceCreateInfo",
        pNext=chain,
        queueCreateInfoCount=1,
        pQueueCreateInfos=queue,
        enabledExtensionCount=len(extensions),
        ppEnabledExtensionNames=strings(extensions),
    )
    handle = ffi.new("VkDevice *")
    check(lib.vkCreateDevice(physical, create_info, NULL, handle), f"opening {info.name}")
    return handle[0]
