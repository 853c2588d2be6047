"""The Vulkan backend: graphs as recorded command buffers over buffers that stay on the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from ...graph.analysis import Footprint
from ...graph.ir import Graph, Role
from ...graph.program import ArenaUse
from ...graph.tensors import Array, HostValue
from ...graph.types import GraphError, TensorType
from ...graph.values import check_type, describe_result, type_of
from .allocation import Memory
from .buffers import DeviceBuffer
from .device import Device
from .footprint import footprint_for
from .info import planning_limits
from .layout import to_bytes, view
from .lowering import lower_calls
from .plan import Plan, plan_calls
from .queue import Ticket
from .recorder import Recording
from .schedule import Kind, Schedule
from .transfer import Region
from .tuning import Tuner
from .watch import FLAGS, with_watch
from .window import CURSOR, log_of, window_of, window_steps, with_window

PROFILED = 4
"""Steps of a profile."""

_SPARE = 32
"""One part in so many of the device's memory is left to its driver."""


class VulkanBackend:
    """Executes graphs on one device.

    Persistent values lie in a buffer each. Arenas are shared by all programs, which run one after
    the other; one that needs a larger arena replaces it.

    Attributes:
        device: where it executes.
        limits: of the device, for planning; `plan` adds which kernels it found to be slower.
        steps_together: see `Backend`.
    """

    steps_together = 16

    def __init__(self, device: Device) -> None:
        self.device = device
        self.limits = planning_limits(device.info)
        self._tuner = Tuner(device)
        self._values: dict[str, tuple[DeviceBuffer, TensorType]] = {}
        self._footprint = footprint_for(self.limits)
        self._arenas: dict[str, DeviceBuffer] = {}

    @property
    def name(self) -> str:
        """The device and its driver; see `Backend`."""
        return f"{self.device.info.name}, {self.device.info.driver}"

    @property
    def memory(self) -> int:
        """What the device's own heap has free or holds for this backend; see `Backend`."""
        heaps = [heap for heap in self.device.memory_report() if heap.device_local]
        most = max(min(h.budget - h.used, h.size - h.allocated) + h.allocated for h in heaps)
        return most - most // _SPARE

    @property
    def footprint(self) -> Footprint:
        """Scratch, and kernels that write over an operand; see `Backend`."""
        return self._footprint

    def profile(self, graph: Graph, inputs: Mapping[str, Array]) -> dict[str, float]:
        """Times on the device, the least of several steps; see `Backend`."""
        return VulkanProgram(self, graph).profile(inputs)

    def load(self, values: Mapping[str, HostValue]) -> None:
        """Take over persistent values; see `Backend`."""
        uploads = []
        for name, value in values.items():
            data = to_bytes(value)
            known = self._values.get(name)
            if known is None or known[0].size != data.nbytes:
                if known is not None:
                    self.device.free([known[0]])
                buffer = self.device.buffer(name, data.nbytes)
            else:
                buffer = known[0]
            self._values[name] = (buffer, type_of(value))
            uploads.append((buffer, data, 0))
        self.device.upload(uploads)

    def read(self, name: str) -> Array:
        """The present contents of a persistent plain tensor; see `Backend`."""
        return self.read_all([name])[name]

    def read_all(self, names: Sequence[str]) -> dict[str, Array]:
        """The present contents of many persistent plain tensors; see `Backend`."""
        data = self.device.download([Region(self._values[name][0]) for name in names])
        values: dict[str, Array] = {}
        for name, content in zip(names, data, strict=True):
            value = view(content, self._values[name][1])
            if not isinstance(value, np.ndarray):
                raise GraphError(f"%{name} is packed and has no plain contents")
            values[name] = value
        return values

    def compile(self, graph: Graph) -> "VulkanProgram":
        """Plan and record a graph; see `Backend`."""
        return VulkanProgram(self, graph)

    def plan(self, graph: Graph) -> Plan:
        """Plan a graph with the kernels that are fastest here; see `tuning`."""
        lowering = lower_calls(graph, self.limits)
        if self._tuner.settle(lowering.choices, self.limits):
            self.limits = replace(self.limits, avoided=self._tuner.avoided)
            lowering = lower_calls(graph, self.limits)
        return plan_calls(graph, lowering)

    def persistent(self, name: str, type: TensorType) -> DeviceBuffer:
        """The buffer of a persistent value.

        Raises:
            GraphError: it was not loaded, or has another type.
        """
        if name not in self._values:
            raise GraphError(f"no value is given for the persistent input %{name}")
        buffer, known = self._values[name]
        if known != type:
            raise GraphError(f"%{name} is given as {known}, not {type}")
        return buffer

    def arena(self, name: str, size: int) -> DeviceBuffer:
        """A shared arena of at least that size; recordings that used a smaller one are closed."""
        known = self._arenas.get(name)
        if known is None or known.size < size:
            if known is not None:
                self.device.free([known])
            self._arenas[name] = self.device.buffer(name, size)
        return self._arenas[name]


@dataclass
class Started:
    """Steps of a program on their way; see `Pending`."""

    program: "VulkanProgram"
    ticket: Ticket
    first: int
    count: int

    @property
    def done(self) -> bool:
        """Whether the device has finished them."""
        return self.ticket.done

    def results(self) -> list[dict[str, Array]]:
        """Wait for the last step and read the outputs of all."""
        self.ticket.wait()
        return [self.program.outputs(self.first + k) for k in range(self.count)]


class VulkanProgram:
    """A graph's plan with a window, its buffers and its recording."""

    def __init__(self, backend: VulkanBackend, graph: Graph) -> None:
        self.graph = graph
        self._backend = backend
        self._steps = window_steps(graph)
        self._one_step = backend.plan(graph)
        self.plan = with_window(self._one_step, self._steps, backend.limits)
        self._own: dict[str, DeviceBuffer] = {}
        self._recording: Recording | None = None
        self._staged = 0
        self._started = 0
        self._inputs = graph.inputs_of(Role.INPUT)
        donated = {alias.output for alias in graph.aliases}
        self._outputs = tuple(v for v in graph.outputs if v.name not in donated)

    @property
    def schedule(self) -> Plan:
        """Dispatches and barriers of a step; see `Program`."""
        return self.plan

    @property
    def device_bytes(self) -> int:
        """All buffers of the schedule but the outputs, which lie in the host's memory."""
        buffers = self.plan.schedule.buffers
        return sum(buffer.size for buffer in buffers if buffer.kind is not Kind.OUTPUT)

    @property
    def arenas(self) -> ArenaUse:
        """What values within a step take; see `Program`."""
        return self.plan.arenas

    def stage(self, steps: Sequence[Mapping[str, Array]]) -> None:
        """Upload the inputs of the coming steps; see `Program`."""
        if len(steps) > self._steps:
            raise GraphError(f"a window holds {self._steps} steps, {len(steps)} are staged")
        for step in steps:
            for value in self._inputs:
                if value.name not in step:
                    raise GraphError(f"no value is given for the input {value}")
                check_type(value.name, value.type, step[value.name])
        buffers = self._buffers(self.plan.schedule)
        self._backend.device.wait()
        uploads = [
            (buffers[window_of(value.name)], np.stack([step[value.name] for step in steps]), 0)
            for value in self._inputs
        ]
        self._backend.device.upload([*uploads, (buffers[CURSOR], np.zeros(1, np.int32), 0)])
        self._staged, self._started = len(steps), 0

    def start(self, count: int = 1) -> Started:
        """Submit steps together; see `Program`."""
        if self._started + count > self._staged:
            raise GraphError(f"only {self._staged - self._started} steps are staged")
        recording = self._ready()
        first, self._started = self._started, self._started + count
        return Started(self, recording.submit(count), first, count)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One step; see `Program`."""
        self.stage([inputs])
        return self.start().results()[0]

    def profile(self, inputs: Mapping[str, Array]) -> dict[str, float]:
        """Seconds of each node by the name of its first result, the least of several steps."""
        steps = min(PROFILED, self._steps)
        self.stage([inputs] * steps)
        makers = {f"{n.scope}:{n.outputs[0].name}": n.outputs[0].name for n in self.graph.nodes}
        seconds: dict[str, float] = {}
        schedule = self.plan.schedule
        recording = self._backend.device.record(schedule, self._buffers(schedule), profile=True)
        for _ in range(steps):
            recording.submit()
            step: dict[str, float] = {}
            for label, taken in recording.seconds():
                if label in makers:
                    step[makers[label]] = step.get(makers[label], 0.0) + taken
            seconds = {name: min(taken, seconds.get(name, taken)) for name, taken in step.items()}
        recording.close()
        return seconds

    def first_nonfinite(self, inputs: Mapping[str, Array]) -> str | None:
        """Run one step under a `Watch`; see `Program`."""
        device, limits = self._backend.device, self._backend.limits
        watch = with_watch(self._one_step, self.graph, limits)
        schedule = with_window(watch.plan, self._steps, limits).schedule
        self.stage([inputs])
        buffers = self._buffers(schedule)
        flags = buffers[FLAGS]
        device.fill([flags])
        device.submit(device.record(schedule, buffers)).wait()
        found = watch.first(device.download([Region(flags)])[0])
        device.free([self._own.pop(FLAGS)])
        self._staged = 0
        return None if found is None else describe_result(*found)

    def outputs(self, step: int) -> dict[str, Array]:
        """What a finished step of the window gave."""
        results: dict[str, Array] = {}
        for value in self._outputs:
            size = value.type.nbytes
            data = self._own[log_of(value.name)].view[step * size : (step + 1) * size]
            results[value.name] = cast(Array, view(data.copy(), value.type))
        return results

    def _ready(self) -> Recording:
        """The recording, made anew if a buffer it used was replaced."""
        if self._recording is None or not self._recording.is_open:
            self._recording = self._backend.device.record(
                self.plan.schedule, self._buffers(self.plan.schedule)
            )
        return self._recording

    def _buffers(self, schedule: Schedule) -> dict[str, DeviceBuffer]:
        """A buffer for each of a schedule's."""
        persistent = {value.name: value.type for value in self.graph.inputs_of(*_PERSISTENT)}
        buffers: dict[str, DeviceBuffer] = {}
        for buffer in schedule.buffers:
            if buffer.name in persistent:
                kept = self._backend.persistent(buffer.name, persistent[buffer.name])
                buffers[buffer.name] = kept
            elif buffer.kind is Kind.ARENA:
                buffers[buffer.name] = self._backend.arena(buffer.name, buffer.size)
            else:
                if buffer.name not in self._own:
                    memory = Memory.HOST if buffer.kind is Kind.OUTPUT else Memory.DEVICE
                    made = self._backend.device.buffer(buffer.name, buffer.size, memory)
                    self._own[buffer.name] = made
                buffers[buffer.name] = self._own[buffer.name]
        return buffers


_PERSISTENT = (Role.WEIGHT, Role.PARAM, Role.STATE)
