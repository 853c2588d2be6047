"""Choosing among kernels by timing them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bitgraph.backends.vulkan import tuning
from bitgraph.backends.vulkan.device import Device
from bitgraph.backends.vulkan.errors import DeviceError, OutOfDeviceMemory
from bitgraph.backends.vulkan.info import DeviceType, planning_limits
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.lowering import lower_calls
from bitgraph.backends.vulkan.lowering.calls import Choice
from bitgraph.backends.vulkan.tuning import Tuner, time_ways
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.text import parse_graph
from vulkan_cases import kernel_device

WAYS = ("ternary_matmul_dot", "ternary_matmul")
PRODUCT = Choice("ternary_matmul", (64, 2048, 1024), WAYS)
UNITS = frozenset(
    {"cooperative_matrix_s8", "cooperative_matrix_f16", "cooperative_matrix2_f16"}
) | {"integer_dot_product"}


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[Device]:
    """The device of the tests, which passes for a GPU, with a cache of its own."""
    with Device.open(kernel_device().info, cache=tmp_path) as device:
        device.info = replace(device.info, type=DeviceType.DISCRETE)
        yield device


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Choice]:
    """Choices that were timed; the last way always wins."""
    made: list[Choice] = []

    def times(device: Device, limits: Limits, choice: Choice) -> dict[str, float]:
        made.append(choice)
        return {way: 1 / (1 + number) for number, way in enumerate(choice.ways)}

    monkeypatch.setattr(tuning, "time_ways", times)
    return made


def test_losers_are_avoided_and_known_from_then_on(gpu: Device, timed: list[Choice]) -> None:
    limits = planning_limits(gpu.info)
    tuner = Tuner(gpu)
    assert tuner.settle([PRODUCT, PRODUCT], limits)
    assert tuner.avoided == {"ternary_matmul_dot 64x2048x1024"}
    assert not tuner.settle([PRODUCT], limits)
    other = Tuner(gpu)
    assert other.settle([PRODUCT], limits)
    assert other.avoided == tuner.avoided
    assert timed == [PRODUCT]


def test_small_products_and_cpus_are_not_timed(gpu: Device, timed: list[Choice]) -> None:
    limits = planning_limits(gpu.info)
    assert not Tuner(gpu).settle([replace(PRODUCT, sizes=(9, 128, 4))], limits)
    gpu.info = replace(gpu.info, type=DeviceType.CPU)
    assert not Tuner(gpu).settle([PRODUCT], limits)
    assert not timed


def test_a_changed_shader_is_timed_again(
    gpu: Device, timed: list[Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = planning_limits(gpu.info)
    Tuner(gpu).settle([PRODUCT], limits)
    monkeypatch.setattr(tuning, "_shader_digest", lambda: "other")
    Tuner(gpu).settle([PRODUCT], limits)
    assert timed == [PRODUCT, PRODUCT]


@pytest.mark.parametrize("op", ["ternary_matmul", "ternary_matmul_t", "loss_and_gradient"])
def test_ways_are_timed(op: str, gpu: Device) -> None:
    """On a device without matrix units there is one way only, under whatever name."""
    choice = Choice(op, (20, 256, 128), WAYS)
    seconds = time_ways(gpu, planning_limits(gpu.info), choice)
    assert set(seconds) == set(WAYS)
    assert all(0 < value < 10 for value in seconds.values())


def test_a_wrong_kernel_is_not_chosen(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first way is made to give a last row that is off by a tenth."""
    limits, rows = planning_limits(gpu.info), []

    def row(run: object, number: int, columns: int) -> np.ndarray:
        rows.append(number)
        wrong = 0.1 if len(rows) == 3 else 0.0
        return true_row(run, number, columns) * (1 + wrong)

    true_row = tuning._Run.row
    monkeypatch.setattr(tuning._Run, "row", row)
    choice = Choice("ternary_matmul_t", (20, 256, 128), WAYS)
    assert set(time_ways(gpu, limits, choice)) == {"ternary_matmul"}
    assert rows == [0, 10, 19, 0, 10, 19]


@pytest.mark.parametrize("op", ["ternary_matmul", "ternary_matmul_t", "loss_and_gradient"])
def test_no_kernel_is_right(op: str, gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning._Run, "row", lambda run, number, columns: np.full(columns, np.nan))
    choice = Choice(op, (20, 256, 128), WAYS)
    with pytest.raises(BitgraphError, match=f"computes {op} of 20x256x128 wrongly by every kernel"):
        time_ways(gpu, planning_limits(gpu.info), choice)


def test_a_refused_kernel_is_left_out(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, choice = planning_limits(gpu.info), Choice("ternary_matmul", (20, 256, 128), WAYS)

    def record(*arguments: object, **options: object) -> object:
        if not refused:
            refused.append(arguments)
            raise DeviceError("no such matrices")
        return true_record(gpu, *arguments, **options)

    true_record, refused = Device.record, []
    monkeypatch.setattr(gpu, "record", record)
    assert set(time_ways(gpu, limits, choice)) == {"ternary_matmul"}
    assert not gpu._buffers


def test_without_room_the_plainest_is_chosen(
    gpu: Device, timed: list[Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_nothing(*_: object) -> dict[str, float]:
        raise OutOfDeviceMemory("full", 2, 1)

    monkeypatch.setattr(tuning, "time_ways", time_nothing)
    tuner, limits = Tuner(gpu), planning_limits(gpu.info)
    tuner.settle([PRODUCT], limits)
    assert tuner.avoided == {"ternary_matmul_dot 64x2048x1024"}


GRAPH = """graph @products {
  input %x: f32[300,512]
  weight %w: t2[768,512]
  weight %v: t2[512,768]
  %codes: q8[300,512] = quantize(%x)
  %y: f32[300,768] = ternary_matmul(%codes, %w)
  %z: f32[300,768] = ternary_matmul_t(%x, %v)
  return %y, %z
}
"""


def kernels_of(avoided: set[str]) -> tuple[set[str], tuple[Choice, ...]]:
    limits = Limits(shared_memory=49152, features=UNITS, avoided=frozenset(avoided))
    lowering = lower_calls(parse_graph(GRAPH), limits)
    return {call.kernel for call in lowering.calls}, tuple(lowering.choices)


def test_plans_follow_what_was_found() -> None:
    kernels, choices = kernels_of(set())
    assert {"ternary_matmul_cm", "halves_product_nv"} <= kernels
    assert [choice.sizes for choice in choices] == [(300, 512, 768), (300, 512, 768)]
    kernels, _ = kernels_of({"ternary_matmul_cm 300x512x768", "halves_product_nv 300x512x768"})
    assert {"ternary_matmul_dot", "ternary_matmul_t_cm"} <= kernels
    kernels, _ = kernels_of({"ternary_matmul_cm 301x512x768"})
    assert "ternary_matmul_cm" in kernels


def test_backend_plans_again(timed: list[Choice]) -> None:
    """On a GPU with matrix units: all that lost is gone from the plan."""
    from bitgraph.backends.vulkan.backend import VulkanBackend

    device = kernel_device()
    if not planning_limits(device.info).features >= UNITS:
        pytest.skip("needs a device with matrix units")
    backend = VulkanBackend(device)
    plan = backend.plan(parse_graph(GRAPH))
    assert "halves_product_nv" not in {d.kernel for d in plan.schedule.dispatches}
    assert timed
