"""Places in device memory, and what a device says when it is full."""

import numpy as np
import pytest
from bitgraph.graph.errors import BitgraphError
from hypothesis import given
from hypothesis import strategies as st

try:
    from bitgraph.backends.vulkan.allocation import BLOCK, FreeList, Memory
    from bitgraph.backends.vulkan.device import Device
    from bitgraph.backends.vulkan.errors import DeviceError, OutOfDeviceMemory
except BitgraphError as error:
    pytest.skip(str(error), allow_module_level=True)

SIZES = st.integers(1, 300)


@given(st.lists(st.tuples(SIZES, st.sampled_from([1, 4, 16, 64]), st.booleans()), max_size=60))
def test_ranges_never_overlap_and_all_come_back(steps: list[tuple[int, int, bool]]) -> None:
    free = FreeList(2000)
    taken: list[tuple[int, int]] = []
    for size, alignment, give in steps:
        if give and taken:
            free.give(*taken.pop(len(taken) // 2))
        offset = free.take(size, alignment)
        if offset is not None:
            assert offset % alignment == 0
            assert offset + size <= 2000
            assert all(offset + size <= o or o + s <= offset for o, s in taken)
            taken.append((offset, size))
        used = sum(s for _, s in taken)
        assert sum(end - start for start, end in free.ranges) == 2000 - used
    for place in taken:
        free.give(*place)
    assert free.empty


def test_full_list_has_no_place_and_reuses_what_is_given_back() -> None:
    free = FreeList(96)
    assert [free.take(32, 16) for _ in range(4)] == [0, 32, 64, None]
    free.give(32, 32)
    assert free.take(33, 1) is None
    assert free.take(32, 16) == 32


def test_small_buffers_share_one_allocation(device: Device) -> None:
    before = device.memory_used()
    buffers = [device.buffer(f"small{i}", 1000) for i in range(100)]
    assert device.memory_used() - before in (0, BLOCK)
    assert len({id(b.place.block) for b in buffers if b.place}) == 1
    large = device.buffer("large", BLOCK)
    assert device.memory_used() - before in (BLOCK, 2 * BLOCK)
    device.free([*buffers, large])
    assert device.memory_used() == before


def test_a_heap_that_is_full_says_how_much_is_needed_and_free(device: Device) -> None:
    heap = device.info.memory
    before = device.memory_used()
    first = device.buffer("first", 768 << 20)
    try:
        with pytest.raises(OutOfDeviceMemory) as caught:
            device.buffer("second", heap - (256 << 20))
    finally:
        device.free([first])
    assert "%second needs 1.75 GiB" in str(caught.value)
    assert "smaller batch" in str(caught.value)
    assert caught.value.needed == heap - (256 << 20)
    assert 0 < caught.value.free <= heap - (768 << 20)
    assert device.memory_used() == before


def test_a_buffer_over_the_largest_allocation_is_refused(device: Device) -> None:
    with pytest.raises(DeviceError, match=r"%huge of .* exceeds the largest allocation"):
        device.buffer("huge", device.info.limits.allocation + 1)
    with pytest.raises(DeviceError, match=r"%none has 0 bytes"):
        device.buffer("none", 0)


def test_host_memory_is_mapped_and_the_devices_own_is_not(device: Device) -> None:
    host, local = device.buffer("host", 5, Memory.HOST), device.buffer("local", 5)
    host.view[:] = np.arange(5, dtype=np.uint8)
    assert host.view.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DeviceError, match="%local is not mapped"):
        _ = local.view
    device.free([host, local])
    with pytest.raises(DeviceError, match="%host is not mapped"):
        _ = host.view


def test_the_report_covers_every_heap(device: Device) -> None:
    kept = device.buffer("kept", 3 << 20)
    report = device.memory_report()
    assert [h.size for h in report] == [h.size for h in device.info.heaps]
    assert sum(h.allocated for h in report) >= 3 << 20
    assert all(h.used == h.allocated and h.budget == h.size for h in report if not h.reported)
    device.free([kept])
