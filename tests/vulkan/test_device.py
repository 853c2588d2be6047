"""Finding, choosing, opening and closing devices, and moving bytes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bitgraph.backends.vulkan.info import (
    DeviceInfo,
    DeviceType,
    choose,
    planning_limits,
)
from bitgraph.cli.devices import devices
from bitgraph.graph.errors import BitgraphError
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

try:
    from bitgraph.backends.vulkan import transfer
    from bitgraph.backends.vulkan.allocation import Memory
    from bitgraph.backends.vulkan.api import check, lib
    from bitgraph.backends.vulkan.device import Device, check_usable
    from bitgraph.backends.vulkan.errors import DeviceError, DeviceLost
    from bitgraph.backends.vulkan.instance import Instance, validation_wanted
    from bitgraph.backends.vulkan.transfer import Region
except BitgraphError as error:
    pytest.skip(str(error), allow_module_level=True)


def _like(cpu: DeviceInfo, index: int, name: str, kind: DeviceType) -> DeviceInfo:
    return replace(cpu, index=index, name=name, type=kind, driver="driver 1")


@pytest.fixture
def several(lavapipe: DeviceInfo) -> list[DeviceInfo]:
    return [
        replace(lavapipe, index=0),
        _like(lavapipe, 1, "Intel Arc", DeviceType.INTEGRATED),
        _like(lavapipe, 2, "NVIDIA H100", DeviceType.DISCRETE),
        _like(lavapipe, 3, "NVIDIA T4", DeviceType.DISCRETE),
    ]


@pytest.mark.parametrize(
    ("selector", "index"),
    [
        (None, 2),
        ("auto", 2),
        ("", 2),
        ("0", 0),
        ("3", 3),
        ("nvidia", 2),
        ("t4", 3),
        ("arc", 1),
        ("lavapipe", 0),
        ("LLVMpipe", 0),
    ],
)
def test_selector(several: list[DeviceInfo], selector: str | None, index: int) -> None:
    assert choose(several, selector).index == index


def test_a_cpu_is_never_chosen_by_itself(several: list[DeviceInfo]) -> None:
    assert choose(several[:2], None).index == 1
    with pytest.raises(BitgraphError, match=r"no GPU was found; Vulkan lists: 0 llvmpipe"):
        choose(several[:1], None)


@pytest.mark.parametrize("selector", ["9", "radeon"])
def test_unknown_selector_lists_what_there_is(several: list[DeviceInfo], selector: str) -> None:
    with pytest.raises(BitgraphError, match=rf"{selector}.*1 Intel Arc, 2 NVIDIA H100"):
        choose(several, selector)


def test_old_device_is_refused(lavapipe: DeviceInfo) -> None:
    with pytest.raises(BitgraphError, match=r"has Vulkan 1\.1\.9.*update its driver"):
        check_usable(replace(lavapipe, version=(1, 1, 9)))
    features = replace(lavapipe.features, timeline_semaphore=False)
    with pytest.raises(BitgraphError, match="timeline semaphores"):
        check_usable(replace(lavapipe, features=features))
    with pytest.raises(BitgraphError, match="cannot compute"):
        check_usable(replace(lavapipe, compute_family=-1))


def test_device_that_went_away(lavapipe: DeviceInfo) -> None:
    with pytest.raises(BitgraphError, match="not there any more"):
        Device.open(replace(lavapipe, uuid="00" * 16))


def test_planning_limits_are_the_devices(lavapipe: DeviceInfo) -> None:
    limits = planning_limits(lavapipe)
    assert limits.max_range == lavapipe.limits.storage_range
    assert limits.subgroup == lavapipe.subgroup.size
    assert ("shader_int8" in limits.features) == lavapipe.features.shader_int8
    assert "cooperative_matrix" not in limits.features


_LIST = "from bitgraph.backends.vulkan.query import list_devices; list_devices()"


def _failure(code: str, environment: dict[str, str]) -> str:
    """The error that a fresh interpreter raises, which must be a BitgraphError."""
    guarded = (
        "from bitgraph.graph.errors import BitgraphError\n"
        f"try:\n    exec({code!r})\nexcept BitgraphError as error:\n    print(error)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", guarded],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_without_a_driver_it_says_what_to_install(lavapipe: DeviceInfo) -> None:
    nowhere = {"VK_ICD_FILENAMES": "/nonexistent.json", "VK_DRIVER_FILES": "/nonexistent.json"}
    message = _failure(_LIST, nowhere)
    assert message.startswith("no Vulkan ")
    assert "apt install libvulkan1 mesa-vulkan-drivers" in message


def test_without_a_loader_it_says_what_to_install(tmp_path: Path) -> None:
    fake = tmp_path / "vulkan"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise OSError('Cannot find Vulkan SDK version')\n")
    message = _failure(_LIST, {"PYTHONPATH": str(tmp_path)})
    assert message.startswith("the Vulkan loader (libvulkan) was not found; install")


def test_without_the_layer_validation_says_what_to_install(lavapipe: DeviceInfo) -> None:
    code = "from bitgraph.backends.vulkan.instance import Instance; Instance(validation=True)"
    message = _failure(code, {"VK_LAYER_PATH": "/nonexistent"})
    assert "apt install vulkan-validationlayers" in message


@pytest.mark.parametrize(("value", "wanted"), [("1", True), ("0", False), ("", False)])
def test_validation_by_environment(
    monkeypatch: pytest.MonkeyPatch, value: str, wanted: bool
) -> None:
    monkeypatch.setenv("BITGRAPH_VALIDATION", value)
    assert validation_wanted() is wanted


def test_validation_really_listens(lavapipe: DeviceInfo, tmp_path: Path) -> None:
    """A leak must be reported, or silence would prove nothing."""
    device = Device.open(lavapipe, validation=True, cache=tmp_path)
    leaked = device.buffer("leaked", 64)
    device._buffers.discard(leaked)
    device.close()
    assert any("has not been destroyed" in m and "%leaked" in m for m in device.messages)


def test_close_frees_what_is_left_and_works_twice(
    lavapipe: DeviceInfo, open_watched: Callable[..., Device]
) -> None:
    device = open_watched()
    device.buffer("left", 100)
    device.upload([(device.buffer("other", 8), np.zeros(8, np.uint8), 0)])
    device.close()
    device.close()
    assert device.messages == []


def test_instance_lists_the_same_device(lavapipe: DeviceInfo) -> None:
    with Instance() as instance:
        assert len(instance.physical_devices()) > lavapipe.index
    instance.close()


def test_failed_calls_become_clear_errors() -> None:
    check(lib.VK_SUCCESS, "x")
    check(lib.VK_TIMEOUT, "x")
    with pytest.raises(DeviceLost, match=r"lost while submitting @step.*last checkpoint"):
        check(lib.VK_ERROR_DEVICE_LOST, "submitting @step")
    with pytest.raises(DeviceError, match="while mapping with ERROR_MEMORY_MAP_FAILED"):
        check(lib.VK_ERROR_MEMORY_MAP_FAILED, "mapping")
    assert issubclass(DeviceLost, BitgraphError)


def test_a_lost_device_refuses_work_and_still_closes(
    open_watched: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_watched()
    buffer = device.buffer("b", 64)
    wait = device.queue._check

    def lose(result: int, doing: str) -> None:
        wait(lib.VK_ERROR_DEVICE_LOST if "waiting" in doing else result, doing)

    device.upload([(buffer, np.zeros(64, np.uint8), 0)])
    device.wait()
    monkeypatch.setattr(device.queue, "_check", lose)
    with pytest.raises(DeviceLost, match="waiting for a copy"):
        device.download([Region(buffer)])
    with pytest.raises(DeviceLost):
        device.fill([buffer])
    with pytest.raises(DeviceLost, match="@step cannot start"):
        device.queue.submit(None, "@step")
    device.close()
    assert device.messages == []


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_bytes_come_back(device: Device, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 70_000), min_size=1, max_size=4))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    arrays = [generator.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    buffers = [device.buffer(f"b{i}", size) for i, size in enumerate(sizes)]
    try:
        before = device.submissions
        device.upload([(b, a, 0) for b, a in zip(buffers, arrays, strict=True)])
        assert device.submissions == before + 1
        for got, array in zip(device.download([Region(b) for b in buffers]), arrays, strict=True):
            np.testing.assert_array_equal(got, array)
    finally:
        device.free(buffers)


def test_bytes_come_back_through_many_chunks(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd sizes and offsets across the staging ring, more chunks than there are slots."""
    monkeypatch.setattr(transfer, "CHUNK", 1024)
    generator = np.random.default_rng(7)
    sizes = [1, 1023, 1024, 1025, 10_007, 3]
    buffers = [device.buffer(f"b{i}", size + 5) for i, size in enumerate(sizes)]
    device.fill(buffers, 0x5A5A5A5A)
    arrays = [generator.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    device.upload([(b, a, 3) for b, a in zip(buffers, arrays, strict=True)])
    got = device.download([Region(b) for b in buffers])
    parts = device.download([Region(b, 3, s) for b, s in zip(buffers, sizes, strict=True)])
    for whole, part, array in zip(got, parts, arrays, strict=True):
        np.testing.assert_array_equal(part, array)
        assert whole[:3].tolist() == [0x5A] * 3
        assert whole[-2:].tolist() == [0x5A] * 2
    device.free(buffers)


def test_arrays_of_any_type_and_layout_are_taken_as_their_bytes(device: Device) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    buffer = device.buffer("b", 48)
    device.upload([(buffer, array, 0)])
    (got,) = device.download([Region(buffer)])
    np.testing.assert_array_equal(got.view(np.float32).reshape(4, 3), array)
    device.free([buffer])


@pytest.mark.parametrize(("offset", "size"), [(0, 65), (60, 5), (-1, 4)])
def test_ranges_outside_a_buffer_are_refused(device: Device, offset: int, size: int) -> None:
    buffer = device.buffer("small", 64)
    with pytest.raises(DeviceError, match=r"not all in buffer %small of 64 bytes"):
        device.upload([(buffer, np.zeros(size, np.uint8), offset)])
    with pytest.raises(DeviceError, match=r"not all in buffer %small"):
        device.download([Region(buffer, offset, size)])
    device.free([buffer])
    with pytest.raises(DeviceError, match="%small is closed"):
        device.fill([buffer])


def test_device_writes_are_seen_in_mapped_memory(device: Device) -> None:
    host = device.buffer("host", 64, Memory.HOST)
    host.view[:] = 1
    device.fill([host], 0x01020304)
    device.wait()
    assert host.view.view(np.uint32).tolist() == [0x01020304] * 16
    device.free([host])


def test_command_lists_devices(lavapipe: DeviceInfo) -> None:
    result = CliRunner().invoke(devices, [])
    assert result.exit_code == 0, result.output
    assert f"{lavapipe.index}  {lavapipe.name} (cpu, Vulkan 1.3." in result.output
    assert "128 MiB a binding, 2 GiB an allocation" in result.output
    assert "no cooperative matrices" in result.output
    listed = json.loads(CliRunner().invoke(devices, ["--json"]).output)
    assert listed[lavapipe.index]["limits"]["storage_range"] == lavapipe.limits.storage_range
