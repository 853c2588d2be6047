"""What the GPU benchmark measures with: counters, profiles, memory."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias
from unittest.mock import patch

from bitgraph.backends.vulkan import device as device_module
from bitgraph.backends.vulkan.backend import VulkanBackend, VulkanProgram
from bitgraph.backends.vulkan.buffers import DeviceBuffer
from bitgraph.backends.vulkan.device import Device
from bitgraph.backends.vulkan.query import select_device
from bitgraph.backends.vulkan.queue import Queue, Ticket
from bitgraph.backends.vulkan.recorder import Recording
from bitgraph.backends.vulkan.schedule import Barrier, Dispatch, Kind, Schedule
from bitgraph.graph.ir import Graph

Result: TypeAlias = dict[str, Any]
"""What a part of the benchmark found, as JSON holds it."""


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
    """A device that times every dispatch of its recordings."""

    def __init__(self, *arguments: Any) -> None:
        self.recorded: list[tuple[Schedule, Recording]] = []
        super().__init__(*arguments)

    def record(
        self, schedule: Schedule, buffers: Mapping[str, DeviceBuffer], profile: bool = True
    ) -> Recording:
        """See `Device.record`."""
        recording = super().record(schedule, buffers, profile=True)
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
    """What the clock and the counters say at one moment."""

    seconds: float
    waited: float
    recordings: int
    submissions: int

    @classmethod
    def take(cls, queue: MeteredQueue) -> "Reading":
        """Now."""
        return cls(time.perf_counter(), queue.waited, queue.recordings, queue.submitted)

    def host_seconds_since(self, other: "Reading") -> float:
        """Seconds since another reading that were not spent waiting for the device."""
        return (self.seconds - other.seconds) - (self.waited - other.waited)


@contextmanager
def opened(selector: str | None) -> Iterator[tuple[Device, MeteredQueue]]:
    """A device with a metered queue."""
    with (
        patch.object(device_module, "Queue", MeteredQueue),
        Device.open(select_device(selector)) as device,
    ):
        assert isinstance(device.queue, MeteredQueue)
        yield device, device.queue


def describe(device: Device) -> Result:
    """What a result was measured with."""
    return {"side": "bitgraph", "device": device.info.name, "driver": device.info.driver}


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
    }


def size_of(program: VulkanProgram) -> Result:
    """Dispatches and barriers of a step."""
    schedule = program.plan.schedule
    barriers = sum(isinstance(command, Barrier) for command in schedule.commands)
    return {"dispatches": len(schedule.dispatches), "barriers": barriers}


def shape_of(dispatch: Dispatch) -> str:
    """Kernel and constants."""
    constants = " ".join(f"{name}={value}" for name, value in dispatch.specialization)
    return f"{dispatch.kernel} {constants}"


GROUPINGS: dict[str, Callable[[Dispatch], str]] = {
    "kernel": lambda dispatch: dispatch.kernel,
    "shape": shape_of,
    "label": lambda dispatch: dispatch.label,
}


def profiles(device: ProfilingDevice, by: str) -> list[Result]:
    """Seconds of the last run of everything recorded, the slowest group of dispatches first."""
    return [
        {
            "name": schedule.name,
            "seconds": sum(seconds for _, seconds in recording.seconds()),
            "groups": grouped(schedule, recording, by),
        }
        for schedule, recording in device.recorded
        if recording.is_open
    ]


def grouped(schedule: Schedule, recording: Recording, by: str) -> list[Result]:
    """Dispatches and seconds by group."""
    totals: dict[str, list[float]] = defaultdict(list)
    for dispatch, (_, seconds) in zip(schedule.dispatches, recording.seconds(), strict=True):
        totals[GROUPINGS[by](dispatch)].append(seconds)
    ranked = sorted(totals.items(), key=lambda item: -sum(item[1]))
    return [{"group": key, "count": len(each), "seconds": sum(each)} for key, each in ranked]
