"""Kernels and recorded schedules, checked by the validation layer down to missing barriers."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from bitgraph.backends.vulkan.info import DeviceInfo
from bitgraph.backends.vulkan.schedule import (
    Access,
    Barrier,
    Binding,
    Buffer,
    Command,
    Dispatch,
    Kind,
    Schedule,
    Slice,
)
from bitgraph.graph.errors import BitgraphError

try:
    from bitgraph.backends.vulkan.buffers import DeviceBuffer
    from bitgraph.backends.vulkan.device import Device
    from bitgraph.backends.vulkan.errors import DeviceError
    from bitgraph.backends.vulkan.pipelines import Pipelines, Value
    from bitgraph.backends.vulkan.transfer import Region
except BitgraphError as error:
    pytest.skip(str(error), allow_module_level=True)

SIZE = 1000
BYTES = 4 * SIZE
BUFFERS = tuple(Buffer(name, BYTES, Kind.ARENA) for name in ("a", "b", "c"))


def dispatch(
    kernel: str,
    *bindings: tuple[str, Access],
    groups: tuple[int, int, int] = (32, 1, 1),
    offset: int = 0,
    size: int = BYTES,
    **constants: Value,
) -> Dispatch:
    slices = tuple(Binding(Slice(name, offset, size), access) for name, access in bindings)
    ordered = tuple(sorted({"SIZE": SIZE, **constants}.items()))
    return Dispatch(kernel, ordered, slices, groups, f"{kernel} {bindings[-1][0]}")


def add(source: str, target: str, **constants: Value) -> Dispatch:
    return dispatch("add", (source, Access.READ), (target, Access.WRITE), **constants)


def schedule(*commands: Command) -> Schedule:
    return Schedule("test", BUFFERS, commands)


@pytest.fixture
def buffers(device: Device) -> Iterator[dict[str, DeviceBuffer]]:
    made = {b.name: device.buffer(b.name, b.size) for b in BUFFERS}
    device.fill(made.values())
    yield made
    device.free(made.values())


def floats(device: Device, buffer: DeviceBuffer) -> npt.NDArray[np.float32]:
    return device.download([Region(buffer)])[0].view(np.float32)


def test_every_kind_of_constant_reaches_the_shader(
    device: Device, buffers: dict[str, DeviceBuffer]
) -> None:
    x = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    device.upload([(buffers["a"], x, 0)])
    recording = device.record(
        schedule(
            add("a", "b", SCALE=0.5, STEP=-3, WIDTH=32),
            add("a", "c", SCALE=2, STEP=4, NEGATE=True, WIDTH=64),
        ),
        buffers,
    )
    device.submit(recording).wait()
    np.testing.assert_array_equal(floats(device, buffers["b"]), x - np.float32(1.5))
    np.testing.assert_array_equal(floats(device, buffers["c"]), x - np.float32(8))


def test_chained_dispatches_and_resubmission(
    device: Device, buffers: dict[str, DeviceBuffer]
) -> None:
    chain = schedule(add("a", "b"), Barrier(), add("b", "c", STEP=10), Barrier(), add("c", "a"))
    recording = device.record(chain, buffers)
    before = device.submissions
    tickets = [device.submit(recording) for _ in range(5)]
    assert device.submissions == before + 5
    tickets[-1].wait(30)
    assert all(ticket.done for ticket in tickets)
    np.testing.assert_array_equal(floats(device, buffers["a"]), np.full(SIZE, 60, np.float32))


def test_a_missing_barrier_is_reported(
    open_watched: Callable[..., Device],
) -> None:
    """The layer must see hazards between dispatches, or its silence would prove nothing."""
    with open_watched() as device:
        made = {b.name: device.buffer(b.name, b.size) for b in BUFFERS}
        device.record(schedule(add("a", "b"), add("b", "c")), made)
    assert any("READ_AFTER_WRITE" in message for message in device.messages)


def test_the_guard_skips_what_lies_beyond(device: Device, buffers: dict[str, DeviceBuffer]) -> None:
    device.fill([buffers["a"]], 7)
    counted = dispatch("increment", ("a", Access.UPDATE), groups=(16, 1, 1), SIZE=777)
    device.submit(device.record(schedule(counted), buffers)).wait()
    got = device.download([Region(buffers["a"])])[0].view(np.uint32)
    assert got.tolist() == [8] * 777 + [7] * (SIZE - 777)


def test_slices_are_bound_at_their_offsets(
    device: Device, buffers: dict[str, DeviceBuffer]
) -> None:
    step = device.info.limits.storage_alignment
    x = np.random.default_rng(1).integers(0, 2**32, SIZE, dtype=np.uint32)
    device.upload([(buffers["a"], x, 0)])
    pieces = [
        replace(
            dispatch("copy", ("a", Access.READ), ("b", Access.WRITE), SIZE=4),
            bindings=(
                Binding(Slice("a", i * step, 16), Access.READ),
                Binding(Slice("b", (9 - i) * step, 16), Access.WRITE),
            ),
            groups=(1, 1, 1),
        )
        for i in range(10)
    ]
    device.submit(device.record(schedule(*pieces), buffers)).wait()
    got = device.download([Region(buffers["b"])])[0].view(np.uint32)
    for i in range(10):
        source, target = i * step // 4, (9 - i) * step // 4
        np.testing.assert_array_equal(got[target : target + 4], x[source : source + 4])


def test_full_subgroups(device: Device, buffers: dict[str, DeviceBuffer]) -> None:
    width = device.info.subgroup.size
    x = np.arange(SIZE, dtype=np.uint32)
    device.upload([(buffers["a"], x, 0)])
    sums = dispatch(
        "subgroup_sum",
        ("a", Access.READ),
        ("b", Access.WRITE),
        groups=(16, 1, 1),
        SUBGROUP_SIZE=width,
    )
    device.submit(device.record(schedule(sums), buffers)).wait()
    expected = np.repeat(x.reshape(-1, width).sum(1, dtype=np.uint32), width)
    got = device.download([Region(buffers["b"])])[0].view(np.uint32)
    np.testing.assert_array_equal(got, expected)


def test_profile_times_each_dispatch(device: Device, buffers: dict[str, DeviceBuffer]) -> None:
    commands = schedule(add("a", "b"), Barrier(), add("b", "c"))
    recording = device.record(commands, buffers, profile=True)
    with pytest.raises(DeviceError, match="no timings"):
        recording.seconds()
    start = time.perf_counter()
    device.submit(recording)
    timings = recording.seconds()
    elapsed = time.perf_counter() - start
    assert [label for label, _ in timings] == ["add b", "add c"]
    assert all(0 < seconds < elapsed for _, seconds in timings)
    with pytest.raises(DeviceError, match="profile=True"):
        device.record(commands, buffers).seconds()


def test_profile_times_what_no_barrier_parts_together(
    device: Device, buffers: dict[str, DeviceBuffer]
) -> None:
    pieces = add("a", "b"), add("a", "c"), Barrier(), Barrier(), add("b", "c")
    recording = device.record(schedule(*pieces), buffers, profile=True, together=True)
    device.submit(recording)
    timings = recording.seconds()
    assert [label for label, _ in timings] == ["add b", "add c"]
    assert all(seconds > 0 for _, seconds in timings)


def test_a_wait_can_time_out(device: Device, buffers: dict[str, DeviceBuffer]) -> None:
    many = [c for _ in range(2000) for c in (add("a", "b"), Barrier(), add("b", "a"), Barrier())]
    ticket = device.submit(device.record(schedule(*many), buffers))
    with pytest.raises(DeviceError, match=r"@test was not done within 0\.001 s"):
        ticket.wait(0.001)
    ticket.wait(60)
    assert ticket.done


def test_an_empty_schedule_runs(device: Device, buffers: dict[str, DeviceBuffer]) -> None:
    device.submit(device.record(schedule(), buffers)).wait(10)


def test_freeing_a_buffer_closes_its_recordings(device: Device) -> None:
    made = {b.name: device.buffer(b.name, b.size) for b in BUFFERS}
    recording = device.record(schedule(add("a", "b")), made)
    device.submit(recording)
    device.free(made.values())
    with pytest.raises(DeviceError, match=r"@test is closed, or a buffer it uses is"):
        device.submit(recording)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (add("a", "d"), r"binds %d, which is no buffer"),
        (dispatch("increment", ("a", Access.UPDATE), offset=16), r"bytes 16 to 4016 of %a"),
        (dispatch("increment", ("a", Access.UPDATE), offset=4, size=16), r"not a multiple of"),
        (dispatch("increment", ("a", Access.UPDATE), size=0), r"bytes 0 to 0 of %a"),
        (dispatch("increment", ("a", Access.READ)), r"only reads binding Counts"),
        (
            dispatch("copy", ("a", Access.WRITE), ("b", Access.WRITE)),
            r"writes binding X, which the shader declares readonly",
        ),
        (
            dispatch("copy", ("a", Access.READ), ("b", Access.UPDATE)),
            r"updates binding Y, which the shader declares writeonly",
        ),
        (dispatch("copy", ("a", Access.READ)), r"binds 1 buffers, but the kernel has 2"),
        (dispatch("increment", ("a", Access.UPDATE), groups=(0, 1, 1)), r"0x1x1 workgroups"),
        (dispatch("increment", ("a", Access.UPDATE), groups=(1 << 17, 1, 1)), r"131072x1x1"),
        (dispatch("increment", ("a", Access.UPDATE), TILE=3), r"no .*constant TILE; it has: SIZE"),
        (dispatch("increment", ("a", Access.UPDATE), SIZE=-1), r"SIZE is of type uint .* -1"),
        (dispatch("increment", ("a", Access.UPDATE), SIZE=2.5), r"cannot be 2\.5"),
        (add("a", "b", NEGATE=2), r"NEGATE is of type bool and cannot be 2"),
        (add("a", "b", WIDTH=1 << 20), r"workgroup of 1048576x1x1 exceeds"),
        (add("a", "b", WIDTH=0), r"workgroup of 0x1x1"),
        (
            dispatch("subgroup_sum", ("a", Access.READ), ("b", Access.WRITE), SUBGROUP_SIZE=3),
            r"asks for subgroups of 3",
        ),
        (dispatch("nothing", ("a", Access.READ)), r"no kernel nothing: no nothing\.comp in"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_before_vulkan_sees_it(
    device: Device, buffers: dict[str, DeviceBuffer], bad: Dispatch, message: str
) -> None:
    with pytest.raises(DeviceError, match=message):
        device.record(schedule(bad), buffers)


def test_a_binding_over_the_largest_range_is_refused(
    device: Device, buffers: Mapping[str, DeviceBuffer]
) -> None:
    largest = device.info.limits.storage_range
    size = largest + 64
    wide = device.buffer("wide", size)
    big = Schedule(
        "big",
        (Buffer("wide", size, Kind.WEIGHT),),
        (dispatch("increment", ("wide", Access.UPDATE), size=size),),
    )
    with pytest.raises(DeviceError, match=rf"takes at most {largest} bytes in one binding"):
        device.record(big, {"wide": wide})
    device.free([wide])


def test_missing_small_and_closed_buffers_are_refused(
    device: Device, buffers: dict[str, DeviceBuffer]
) -> None:
    commands = schedule(add("a", "b"))
    with pytest.raises(DeviceError, match="%c is missing"):
        device.record(commands, {n: b for n, b in buffers.items() if n != "c"})
    small = device.buffer("c", BYTES - 1)
    with pytest.raises(DeviceError, match="%c has 3999 bytes, not 4000"):
        device.record(commands, {**buffers, "c": small})
    device.free([small])
    with pytest.raises(DeviceError, match="%c is missing or closed"):
        device.record(commands, {**buffers, "c": small})


def test_pipelines_are_made_once(device: Device) -> None:
    first = device.pipeline("add", {"SIZE": 5, "SCALE": 2.0})
    assert device.pipeline("add", {"SCALE": 2.0, "SIZE": 5}) is first
    assert device.pipeline("add", {"SIZE": 6, "SCALE": 2.0}) is not first


def test_a_failure_among_many_pipelines_leaks_none(device: Device) -> None:
    keys = [("add", (("SIZE", 100 + i),)) for i in range(6)]
    with pytest.raises(DeviceError, match="TILE"):
        device.pipelines.prepare([*keys, ("add", (("TILE", 1),))])
    assert len(device.pipelines.prepare(keys)) == 6


@pytest.mark.parametrize("damage", ["none", "flip", "truncate", "foreign"])
def test_pipeline_cache_is_checked(
    open_watched: Callable[..., Device], tmp_path: Path, damage: str
) -> None:
    with open_watched(cache=tmp_path) as device:
        device.pipeline("copy", {"SIZE": 3})
    (file,) = (tmp_path / "pipelines").iterdir()
    sound = file.read_bytes()
    damaged = bytearray(sound)
    if damage == "flip":
        damaged[len(sound) // 2] ^= 16
    elif damage == "truncate":
        damaged = damaged[:-1]
    elif damage == "foreign":
        # A sound entry whose Vulkan header names another vendor.
        contents = bytearray(device.pipelines._kept or sound[42:])
        contents[8] ^= 1
        device.pipelines._files.write("pipelines", device.pipelines.key, bytes(contents))
        damaged = bytearray(file.read_bytes())
    file.write_bytes(damaged)
    with open_watched(cache=tmp_path) as again:
        pipelines: Pipelines = again.pipelines
        assert pipelines._kept == (sound[42:] if damage == "none" else b"")
        again.pipeline("copy", {"SIZE": 3})
    assert file.read_bytes()[:10] == sound[:10]
    assert again.messages == []


def test_recording_ten_thousand_dispatches(lavapipe: DeviceInfo, tmp_path: Path) -> None:
    """Timed without the layer, which would be most of the time."""
    shaders = Path(__file__).parent / "shaders"
    pairs = [(add("a", "b"), Barrier(), add("b", "a"), Barrier()) for _ in range(5000)]
    large = schedule(*(command for pair in pairs for command in pair))
    with Device.open(lavapipe, validation=False, shaders=[shaders], cache=tmp_path) as device:
        made = {b.name: device.buffer(b.name, b.size) for b in BUFFERS}
        device.fill(made.values())
        device.record(schedule(add("a", "b")), made)
        start = time.perf_counter()
        recording = device.record(large, made)
        seconds = time.perf_counter() - start
        print(f"\n10,000 dispatches recorded in {seconds:.3f} s, {seconds * 100:.1f} us each")
        device.submit(recording).wait(120)
        result = floats(device, made["a"])
    np.testing.assert_array_equal(result, np.full(SIZE, 10_000, np.float32))
    assert seconds < 10
