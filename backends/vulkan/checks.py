"""What is refused before Vulkan sees it, as drivers crash or stay silent instead."""

from collections.abc import Mapping

from .buffers import DeviceBuffer
from .errors import DeviceError
from .info import DeviceInfo
from .pipelines import Key, Pipeline
from .schedule import Access, Binding, Schedule, Slice


def check_schedule(
    schedule: Schedule, buffers: Mapping[str, DeviceBuffer], info: DeviceInfo
) -> None:
    """Refuse buffers and slices that the device would take wrongly.

    Raises:
        DeviceError: a buffer is missing or small, a slice lies outside its buffer, is misaligned
            or too large.
    """
    for buffer in schedule.buffers:
        given = buffers.get(buffer.name)
        if given is None or given.place is None:
            raise DeviceError(f"@{schedule.name}: buffer %{buffer.name} is missing or closed")
        if given.size < buffer.size:
            raise DeviceError(
                f"@{schedule.name}: buffer %{buffer.name} has {given.size} bytes, not {buffer.size}"
            )
    sizes = {buffer.name: buffer.size for buffer in schedule.buffers}
    checked: set[Slice] = set()
    for dispatch in schedule.dispatches:
        for binding in dispatch.bindings:
            if binding.slice not in checked:
                _check_slice(binding.slice, sizes, info, f"@{schedule.name}: {dispatch.label}")
                checked.add(binding.slice)


def _check_slice(s: Slice, sizes: Mapping[str, int], info: DeviceInfo, where: str) -> None:
    alignment, largest = info.limits.storage_alignment, info.limits.storage_range
    if s.buffer not in sizes:
        raise DeviceError(f"{where} binds %{s.buffer}, which is no buffer of the schedule")
    if s.size <= 0 or s.offset < 0 or s.offset + s.size > sizes[s.buffer]:
        raise DeviceError(
            f"{where} binds bytes {s.offset} to {s.offset + s.size} of %{s.buffer}, which has "
            f"{sizes[s.buffer]}"
        )
    if s.offset % alignment:
        raise DeviceError(
            f"{where} binds %{s.buffer} at {s.offset}, not a multiple of {alignment}, the "
            f"alignment of {info.name}"
        )
    if s.size > largest:
        raise DeviceError(
            f"{where} binds {s.size} bytes of %{s.buffer}, but {info.name} takes at most "
            f"{largest} bytes in one binding; split it"
        )


def check_dispatches(
    schedule: Schedule, pipelines: Mapping[Key, Pipeline], info: DeviceInfo
) -> None:
    """Refuse dispatches that do not fit their kernels.

    Raises:
        DeviceError: the number of bindings differs, an access contradicts the shader, or the
            workgroups are too many.
    """
    most = info.limits.workgroup_count
    for dispatch in schedule.dispatches:
        expected = pipelines[(dispatch.kernel, dispatch.specialization)].interface.bindings
        where = f"@{schedule.name}: {dispatch.label} ({dispatch.kernel})"
        if len(expected) != len(dispatch.bindings):
            raise DeviceError(
                f"{where} binds {len(dispatch.bindings)} buffers, but the kernel has "
                f"{len(expected)}"
            )
        for buffer, binding in zip(expected, dispatch.bindings, strict=True):
            _check_access(buffer.name, buffer.readable, buffer.writable, binding, where)
        if not all(1 <= n <= m for n, m in zip(dispatch.groups, most, strict=True)):
            groups = "x".join(map(str, dispatch.groups))
            raise DeviceError(f"{where} has {groups} workgroups, outside 1 to {min(most)}")


def _check_access(name: str, readable: bool, writable: bool, binding: Binding, where: str) -> None:
    """A schedule that says less than the kernel does would miss a barrier."""
    if binding.access is Access.READ and writable:
        raise DeviceError(f"{where} only reads binding {name}; declare it readonly in the shader")
    if binding.access is not Access.READ and not writable:
        raise DeviceError(f"{where} writes binding {name}, which the shader declares readonly")
    if binding.access is Access.UPDATE and not readable:
        raise DeviceError(f"{where} updates binding {name}, which the shader declares writeonly")
