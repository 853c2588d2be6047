"""What a device is and can do, as plain data that needs no Vulkan."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from ...graph.errors import BitgraphError
from .limits import Limits


class DeviceType(StrEnum):
    """What kind of processor a device is, the most capable first."""

    DISCRETE = "discrete"
    INTEGRATED = "integrated"
    VIRTUAL = "virtual"
    OTHER = "other"
    CPU = "cpu"


@dataclass(frozen=True)
class Heap:
    """A pool of memory; `size` in bytes."""

    size: int
    device_local: bool


@dataclass(frozen=True)
class Subgroup:
    """Invocations that run in step.

    Attributes:
        size: the usual number of them.
        minimum, maximum: the sizes that a shader may ask for.
        operations: what they can do together: basic, arithmetic, shuffle and so on.
    """

    size: int
    minimum: int
    maximum: int
    operations: tuple[str, ...]


@dataclass(frozen=True)
class DeviceLimits:
    """The device's limits; sizes in bytes.

    Attributes:
        storage_range: largest range that one binding covers.
        allocation: largest single memory allocation.
        allocation_count: how many allocations there may be.
        storage_alignment: a binding's offset is a multiple of it.
        invocations: most invocations of a workgroup.
        workgroup_size: most invocations in x, y, z.
        workgroup_count: most workgroups of a dispatch in x, y, z.
        shared_memory: of a workgroup.
        storage_bindings: most storage buffers of one kernel.
        push_constants: bytes of them.
        timestamp_period: nanoseconds of a timestamp's step; 0 where there are no timestamps.
        cores: streaming multiprocessors or compute units; 0 where the driver does not say.
    """

    storage_range: int
    allocation: int
    allocation_count: int
    storage_alignment: int
    invocations: int
    workgroup_size: tuple[int, int, int]
    workgroup_count: tuple[int, int, int]
    shared_memory: int
    storage_bindings: int
    push_constants: int
    timestamp_period: float
    cores: int


@dataclass(frozen=True)
class MatrixShape:
    """A cooperative matrix product that is done in hardware: [m,k] x [k,n] + [m,n]."""

    m: int
    n: int
    k: int
    a: str
    b: str
    c: str
    result: str

    def __str__(self) -> str:
        return f"{self.a} {self.m}x{self.n}x{self.k} {self.result}"


@dataclass(frozen=True)
class Features:
    """Optional abilities, each under Vulkan's name for it or the extension's."""

    shader_int16: bool
    shader_int64: bool
    storage16: bool
    storage8: bool
    shader_int8: bool
    shader_float16: bool
    timeline_semaphore: bool
    buffer_device_address: bool
    scalar_block_layout: bool
    subgroup_extended_types: bool
    vulkan_memory_model: bool
    integer_dot_product: bool
    subgroup_size_control: bool
    full_subgroups: bool
    synchronization2: bool
    maintenance4: bool
    cooperative_matrix: bool
    cooperative_matrix2: bool
    bfloat16: bool


@dataclass(frozen=True)
class DeviceInfo:
    """A device that Vulkan lists.

    Attributes:
        index: its number in the loader's order.
        name, vendor, type, driver: what it is and what drives it.
        version: of Vulkan.
        uuid: of the device, in hex.
        pipeline_cache_uuid: changes whenever the driver's compiled pipelines do.
        compute_family: index of the queue family used, or -1 if the device cannot compute.
        extensions: names of its extensions.
    """

    index: int
    name: str
    vendor: str
    vendor_id: int
    device_id: int
    type: DeviceType
    driver: str
    version: tuple[int, int, int]
    uuid: str
    pipeline_cache_uuid: str
    compute_family: int
    heaps: tuple[Heap, ...]
    limits: DeviceLimits
    subgroup: Subgroup
    features: Features
    matrices: tuple[MatrixShape, ...]
    extensions: frozenset[str]

    @property
    def memory(self) -> int:
        """Bytes of the largest device-local heap."""
        return max((heap.size for heap in self.heaps if heap.device_local), default=0)


def choose(devices: Sequence[DeviceInfo], selector: str | None) -> DeviceInfo:
    """The device that a selector means.

    Args:
        devices: what there is.
        selector: an index, a part of a name or driver (any case), or None or "auto" for the best
            GPU: discrete before integrated, and never a CPU.

    Raises:
        BitgraphError: nothing fits; it lists what there is.
    """
    order = list(DeviceType)
    ranked = sorted(devices, key=lambda d: (order.index(d.type), d.index))
    if selector is None or selector.strip().lower() in ("", "auto"):
        found = [d for d in ranked if d.type != DeviceType.CPU]
        missing = "no GPU was found"
    elif selector.strip().isdecimal():
        found = [d for d in devices if d.index == int(selector)]
        missing = f"there is no Vulkan device number {selector.strip()}"
    else:
        part = selector.strip().lower().replace("lavapipe", "llvmpipe")
        found = [d for d in ranked if part in f"{d.name} {d.driver}".lower()]
        missing = f"no Vulkan device is named like '{selector}'"
    if found:
        return found[0]
    names = ", ".join(f"{d.index} {d.name}" for d in devices)
    raise BitgraphError(f"{missing}; Vulkan lists: {names}; choose one by number or name")


def planning_limits(info: DeviceInfo) -> Limits:
    """What lowering and planning need to know of a device.

    Among the features are "cooperative_matrix_s8", "cooperative_matrix_f16" and, for matrices as
    large as a workgroup, "cooperative_matrix2_f16", where the device has the matrix products that
    kernels are written for and all that they need besides, and
    "subgroup_shuffle" and the like for what subgroups can do.
    """
    offered = frozenset(name for name, present in asdict(info.features).items() if present)
    offered |= {f"subgroup_{operation}" for operation in info.subgroup.operations}
    for name, (shape, needed) in _MATRIX_PRODUCTS.items():
        if shape in info.matrices and needed <= offered:
            offered |= {name}
    return Limits(
        max_range=info.limits.storage_range,
        alignment=info.limits.storage_alignment,
        max_allocation=info.limits.allocation,
        max_groups=min(info.limits.workgroup_count),
        shared_memory=info.limits.shared_memory,
        subgroup=info.subgroup.size,
        bindings=info.limits.storage_bindings,
        invocations=info.limits.invocations,
        cores=info.limits.cores,
        features=offered,
    )


_MATRIX_PRODUCTS = {
    "cooperative_matrix_s8": (
        MatrixShape(16, 16, 32, "i8", "i8", "i32", "i32"),
        {"shader_int8", "vulkan_memory_model", "full_subgroups"},
    ),
    "cooperative_matrix_f16": (
        MatrixShape(16, 16, 16, "f16", "f16", "f32", "f32"),
        {"shader_float16", "vulkan_memory_model", "full_subgroups"},
    ),
    "cooperative_matrix2_f16": (
        MatrixShape(16, 16, 16, "f16", "f16", "f32", "f32"),
        {"cooperative_matrix2", "shader_float16", "storage16", "vulkan_memory_model"},
    ),
}
"""Shapes and other features by the name of what they make possible together."""
