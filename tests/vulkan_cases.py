"""Graphs on the Vulkan backend: planned, run on poisoned memory, and run on a device.

BITGRAPH_TEST_DEVICE chooses the device, lavapipe unless it is set. With BITGRAPH_TEST_PLAIN the
device's matrix units are left alone: validation layers older than them report whatever they meet.
"""

import atexit
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest
from bitgraph.backends.vulkan.kernels import kernel
from bitgraph.backends.vulkan.layout import to_bytes, view
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.lowering import meaning_of
from bitgraph.backends.vulkan.plan import Plan, make_plan
from bitgraph.backends.vulkan.runner import run_plan
from bitgraph.backends.vulkan.schedule import (
    Access,
    Binding,
    Buffer,
    Dispatch,
    Kind,
    Schedule,
    Slice,
)
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ir import Alias, Graph, Input, Role
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import assert_close, assert_same_bits, draw, one_op_graph, random_cases

if TYPE_CHECKING:
    from bitgraph.backends.vulkan.device import Device
    from bitgraph.backends.vulkan.info import DeviceInfo

Run: TypeAlias = Callable[..., dict[str, HostValue]]
"""Called with a graph, values and perhaps limits, gives the outputs; see `RUNS`."""
Judge: TypeAlias = Callable[[Graph, dict[str, HostValue], dict[str, HostValue]], None]
"""Called with a graph, values and outputs, asserts that the outputs are right."""

FOLDED = Limits(max_groups=23)
"""Workgroups go into y soon."""
SPLIT = Limits(max_range=1 << 16, alignment=64, max_groups=23)
"""And what is larger than 64 KiB has to be bound in parts."""

_POISON = 0xFFFFFFFF


def values_of(graph: Graph, case: Case, seed: int = 0) -> dict[str, HostValue]:
    """Values for the inputs of a graph of one op."""
    names = (item.value.name for item in graph.inputs)
    return dict(zip(names, draw(case, seed), strict=True))


def simulate(
    graph: Graph, values: Mapping[str, HostValue], limits: Limits | None = None, seed: int = 0
) -> dict[str, HostValue]:
    """A graph's outputs from the schedule runner; every binding must keep to the limits."""
    limits = limits or Limits()
    plan = make_plan(graph, limits)
    for dispatch in plan.schedule.dispatches:
        for binding in dispatch.bindings:
            assert binding.slice.offset % limits.alignment == 0, dispatch.label
            assert 0 < binding.slice.size <= limits.max_range, dispatch.label
    return run_plan(plan, graph, values, np.random.default_rng(seed))


@cache
def _device() -> "Device | str":
    """The device with the package's kernels, or why there is none."""
    try:
        from bitgraph.backends.vulkan.device import Device
        from bitgraph.backends.vulkan.query import select_device

        info = select_device(os.environ.get("BITGRAPH_TEST_DEVICE", "lavapipe"))
        info = _plain(info) if os.environ.get("BITGRAPH_TEST_PLAIN") else info
    except BitgraphError as error:
        return str(error)
    try:
        device = Device.open(info, synchronization=True)
    except BitgraphError as error:
        if "is not installed" not in str(error):
            raise
        device = Device.open(info)
    atexit.register(device.close)
    return device


def _plain(info: "DeviceInfo") -> "DeviceInfo":
    """A device as if it had no matrix units."""
    names = ("cooperative_matrix", "cooperative_matrix2", "bfloat16")
    features = replace(info.features, **dict.fromkeys(names, False))
    hidden = {e for e in info.extensions if "cooperative" in e or "bfloat" in e}
    return replace(info, features=features, extensions=info.extensions - hidden, matrices=())


def kernel_device() -> "Device":
    """The device under test, opened once; the validation layer watches where it is installed."""
    device = _device()
    if isinstance(device, str):
        pytest.skip(f"needs a Vulkan device: {device}")
    return device


def device_limits() -> Limits:
    """The limits of the device under test."""
    from bitgraph.backends.vulkan.info import planning_limits

    return planning_limits(kernel_device().info)


def run_case_on_device(
    device: "Device", graph: Graph, plan: Plan, values: Mapping[str, HostValue]
) -> dict[str, HostValue]:
    """Run a plan once, its memory poisoned beforehand, without a word of the validation layer."""
    from bitgraph.backends.vulkan.transfer import Region

    buffers = {b.name: device.buffer(b.name, b.size) for b in plan.schedule.buffers}
    try:
        device.fill(buffers.values(), _POISON)
        inputs = [i.value.name for i in graph.inputs]
        device.upload([(buffers[name], to_bytes(values[name]), 0) for name in inputs])
        device.submit(device.record(plan.schedule, buffers)).wait()
        places = [plan.slices[value.name] for value in graph.outputs]
        data = device.download([Region(buffers[p.buffer], p.offset, p.size) for p in places])
    finally:
        device.free(buffers.values())
    assert device.messages == [], device.messages[:2]
    return {v.name: view(d, v.type) for v, d in zip(graph.outputs, data, strict=True)}


def run_on_device(
    graph: Graph, values: Mapping[str, HostValue], limits: Limits | None = None
) -> dict[str, HostValue]:
    """A graph's outputs from the device under test, planned for it or for given limits."""
    device = kernel_device()
    plan = make_plan(graph, limits or device_limits())
    return run_case_on_device(device, graph, plan, values)


def run_shuffled(
    graph: Graph, values: Mapping[str, HostValue], limits: Limits | None = None
) -> dict[str, HostValue]:
    """A graph's outputs from the schedule runner, the same in whatever order it runs."""
    first = simulate(graph, values, limits, 0)
    for seed in (1, 2):
        again = simulate(graph, values, limits, seed)
        for name, value in first.items():
            assert_same_bits(value, again[name])
    return first


RUNS = [pytest.param(run_shuffled, id="runner"), pytest.param(run_on_device, id="device")]
"""For tests that hold of both: called with a graph, values and limits, the outputs."""


def in_place(graph: Graph, *pairs: tuple[int, int]) -> Graph:
    """The graph with outputs k put in the place of inputs j, for pairs (k, j)."""
    donated = {j for _, j in pairs}
    inputs = tuple(
        Input(item.value, Role.STATE if j in donated else item.role)
        for j, item in enumerate(graph.inputs)
    )
    aliases = tuple(Alias(graph.outputs[k].name, inputs[j].value.name) for k, j in pairs)
    return replace(graph, inputs=inputs, aliases=aliases)


def check_case(op: OpDef, case: Case, run: Run, judge: Judge, limits: Limits | None = None) -> None:
    """Run one application of an op and judge its outputs."""
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    judge(graph, values, run(graph, values, limits))


def check_random_cases(op: OpDef, run: Run, judge: Judge, examples: int = 4) -> None:
    """Judge the outputs of an op for a few random sizes and operands, always the same."""

    @settings(max_examples=examples, derandomize=True, deadline=None)
    @given(random_cases(op), st.integers(0, 2**16))
    def check(case: Case, seed: int) -> None:
        graph = one_op_graph(op, case)
        values = values_of(graph, case, seed)
        judge(graph, values, run(graph, values))

    check()


def assert_heads(kernels: Iterable[str], target: str = "vulkan1.3") -> None:
    """Kernels compile, and have the constants and bindings that their heads list."""
    from bitgraph.backends.vulkan.compiler import compile_shaders
    from bitgraph.backends.vulkan.device import SHADERS
    from bitgraph.backends.vulkan.spirv import reflect
    from bitgraph.backends.vulkan.variants import base_of

    sources = {name: SHADERS / f"{base_of(name)}.comp" for name in kernels}
    for name, spirv in compile_shaders(sources, [SHADERS], target).items():
        interface, record = reflect(spirv, name), kernel(name)
        assert tuple(interface.constants) == record.constants, name
        for binding, parameter in zip(interface.bindings, record.parameters, strict=True):
            assert binding.readable == (parameter.access is not Access.WRITE), name
            assert binding.writable == (parameter.access is not Access.READ), name


def assert_kernel(
    name: str,
    constants: Mapping[str, int | float],
    operands: Mapping[str, HostValue],
    groups: int,
    tolerance: float = 0.0,
) -> None:
    """A kernel gives on the device what its meaning says, and leaves the rest as it was.

    Args:
        name: of the kernel.
        constants: its specialization constants.
        operands: by name; results as they are before.
        groups: workgroups.
        tolerance: beside the largest number of each result.
    """
    from bitgraph.backends.vulkan.transfer import Region

    device, parameters = kernel_device(), kernel(name).parameters
    types = {p.name: p.type(constants) for p in parameters}
    before = {k: np.array(to_bytes(operands[k])) for k in types}
    wanted = {k: view(data.copy(), types[k]) for k, data in before.items()}
    meaning_of(name)(constants, wanted)
    sizes = {k: data.nbytes for k, data in before.items()}
    bindings = tuple(Binding(Slice(p.name, 0, sizes[p.name]), p.access) for p in parameters)
    dispatch = Dispatch(name, tuple(sorted(constants.items())), bindings, (groups, 1, 1), name)
    memory = tuple(Buffer(k, size, Kind.SCRATCH) for k, size in sizes.items())
    buffers = {k: device.buffer(k, size) for k, size in sizes.items()}
    try:
        device.upload([(buffers[k], data, 0) for k, data in before.items()])
        device.submit(device.record(Schedule(name, memory, (dispatch,)), buffers)).wait()
        for k, want in wanted.items():
            (data,) = device.download([Region(buffers[k], 0, sizes[k])])
            assert_close(view(data, types[k]), want, tolerance)
    finally:
        device.free(buffers.values())
    assert device.messages == [], device.messages[:2]
