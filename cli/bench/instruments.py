"""What is measured with: counters, profiles, memory."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from ...backends.numpy.backend import NumpyBackend
from ...backends.vulkan import device as device_module
from ...backends.vulkan.backend import VulkanBackend, VulkanProgram
from ...backends.vulkan.buffers import DeviceBuffer
from ...backends.vulkan.device import Device
from ...backends.vulkan.query import select_device
from ...backends.vulkan.queue import Queue, Ticket
from ...backends.vulkan.recorder import Recording
from ...backends.vulkan.schedule import Barrier, Kind, Schedule
from ...graph.ir import Graph
from ...graph.program import Backend
from .results import Result

WARM_SECONDS = 0.5
"""How long a device works before its kernels are timed: what was idle runs at half its clock."""


def warm_up(run: Callable[[], object]) -> None:
    """Run something again and again until the device has its full clock."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < WARM_SECONDS:
        run()


@dataclass
class MeteredQueue(Queue):
    """A queue that counts the submissions of recordings and the seconds spent waiting.

    Attributes:
        recordings: submissions of recordings; those of copies are left out.
        waited: seconds inside `wait`.
    """

    recordings: int = 0
    waited: float = 0.0

    def submit(self, commands: Any, what: str, repeats: int = 1) -> Ticket:
        """See `Queue.submit`; the names of recordings begin with @."""
        self.recordings += what.startswith("@")
        return super().submit(commands, what, repeats)

    def wait(self, number: int, what: str, timeout: float | None = None) -> None:
        """See `Queue.wait`."""
        begin = time.perf_counter()
        try:
            super().wait(number, what, timeout)
        finally:
            self.waited += time.perf_counter() - begin


class ProfilingDevice(Device):
    """A device that times every dispatch of its recordings.

    Attributes:
        recorded: what was recorded so far.
        together: whether dispatches that no barrier parts are timed as one.
    """

    def __init__(self, *arguments: Any) -> None:
        self.recorded: list[tuple[Schedule, Recording]] = []
        self.together = False
        super().__init__(*arguments)

    def record(
        self,
        schedule: Schedule,
        buffers: Mapping[str, DeviceBuffer],
        profile: bool = True,
        together: bool = False,
    ) -> Recording:
        """See `Device.record`."""
        recording = super().record(schedule, buffers, True, self.together or together)
        self.recorded.append((schedule, recording))
        return recording


class WatchedBackend(VulkanBackend):
    """A backend that remembers its programs."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.programs: list[VulkanProgram] = []

    def compile(self, graph: Graph) -> VulkanProgram:
        """See `VulkanBackend.compile`."""
        program = super().compile(graph)
        self.programs.append(program)
        return program


@dataclass(frozen=True)
class Reading:
    """What the clock and the counters say at one moment.

    Attributes:
        seconds: of the clock.
        waited: seconds spent waiting for the device.
        recordings: submissions of recordings.
        submissions: all of them, copies included.
    """

    seconds: float
    waited: float = 0.0
    recordings: int = 0
    submissions: int = 0

    def host_seconds_since(self, other: "Reading") -> float:
        """Seconds since another reading that were not spent waiting for the device."""
        return (self.seconds - other.seconds) - (self.waited - other.waited)


@dataclass(frozen=True, eq=False)
class Meter:
    """A backend, and ways to look at it.

    Attributes:
        backend: to compute with.
        read: the clock and the counters.
        describe: what a result was measured with.
        memory: bytes: predicted, allocated, reported.
        size: dispatches and barriers of the last program that was compiled.
        forget: leaves programs out of `memory` and `size` that were compiled until now, but the
            last.
    """

    backend: Backend
    read: Callable[[], Reading]
    describe: Callable[[], Result]
    memory: Callable[[], Result]
    size: Callable[[], Result]
    forget: Callable[[], None]


@contextmanager
def metered(backend: str, device: str | None) -> Iterator[Meter]:
    """A backend under watch, "vulkan" or "numpy", until the end of the block.

    Raises:
        BitgraphError: there is no such device.
    """
    if backend == "numpy":
        yield _numpy_meter()
    else:
        with opened(device) as (gpu, queue):
            yield _vulkan_meter(gpu, queue)


@contextmanager
def opened(selector: str | None) -> Iterator[tuple[Device, MeteredQueue]]:
    """A device with a metered queue."""
    with (
        patch.object(device_module, "Queue", MeteredQueue),
        Device.open(select_device(selector)) as device,
    ):
        assert isinstance(device.queue, MeteredQueue)
        yield device, device.queue


def _numpy_meter() -> Meter:
    return Meter(
        NumpyBackend(),
        lambda: Reading(time.perf_counter()),
        lambda: {"side": "numpy", "device": "NumPy"},
        lambda: {"memory_host": peak_rss()},
        dict,
        lambda: None,
    )


def _vulkan_meter(gpu: Device, queue: MeteredQueue) -> Meter:
    before = gpu.memory_used()
    backend = WatchedBackend(gpu)
    return Meter(
        backend,
        lambda: Reading(time.perf_counter(), queue.waited, queue.recordings, queue.submitted),
        lambda: describe(gpu),
        lambda: memory(backend, before),
        lambda: size_of(backend.programs[-1]),
        lambda: backend.programs.__setitem__(slice(None), backend.programs[-1:]),
    )


def describe(device: Device) -> Result:
    """What a result was measured with."""
    return {"side": "vulkan", "device": device.info.name, "driver": device.info.driver}


def memory(backend: WatchedBackend, before: int) -> Result:
    """Bytes of device memory: as the plans predict, as allocated, as the driver reports.

    Outputs lie in the host's memory. Of what the driver reports, `before` was used by the open
    device alone.
    """
    sizes: dict[str, int] = {}
    for program in backend.programs:
        for buffer in program.plan.schedule.buffers:
            if buffer.kind is not Kind.OUTPUT:
                sizes[buffer.name] = max(sizes.get(buffer.name, 0), buffer.size)
    heaps = [heap for heap in backend.device.memory_report() if heap.device_local]
    return {
        "memory_predicted": sum(sizes.values()),
        "memory_arenas": max(program.plan.arena_bytes for program in backend.programs),
        "memory_allocated": sum(heap.allocated for heap in heaps),
        "memory_driver": sum(heap.used for heap in heaps),
        "memory_driver_before": before,
        "memory_driver_reports": any(heap.reported for heap in heaps),
        "memory_host": peak_rss(),
    }


def size_of(program: VulkanProgram) -> Result:
    """Dispatches and barriers of a step."""
    schedule = program.plan.schedule
    barriers = sum(isinstance(command, Barrier) for command in schedule.commands)
    return {"dispatches": len(schedule.dispatches), "barriers": barriers}


def peak_rss() -> int:
    """Bytes of the host's memory that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def rss() -> int:
    """Bytes of the host's memory that this process holds now; 0 where there is no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
