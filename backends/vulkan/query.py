"""Asking Vulkan which devices there are and what each can do."""

from typing import Any

from ...graph.errors import BitgraphError
from . import features
from .api import INSTALL, enumerate_all, ffi, instance_function, lib, struct, text
from .info import DeviceInfo, DeviceLimits, DeviceType, Heap, MatrixShape, Subgroup, choose
from .instance import Instance


def list_devices() -> tuple[DeviceInfo, ...]:
    """Every device, in the loader's order.

    Raises:
        BitgraphError: no driver or no device; it says how to install one.
    """
    with Instance() as instance:
        physical = instance.physical_devices()
        if not physical:
            raise BitgraphError(f"no Vulkan device was found; {INSTALL}")
        return tuple(describe(instance, index, p) for index, p in enumerate(physical))


def select_device(selector: str | None = None) -> DeviceInfo:
    """The device of this machine that a selector means; see `choose`."""
    return choose(list_devices(), selector)


def describe(instance: Instance, index: int, physical: Any) -> DeviceInfo:
    """Ask a VkPhysicalDevice for what it is and can do."""
    extensions = {
        text(item.extensionName)
        for item in enumerate_all(
            lib.vkEnumerateDeviceExtensionProperties,
            "VkExtensionProperties",
            physical,
            ffi.NULL,
        )
    }
    plain, v11, v12, v13 = _properties(physical)
    version = _version(plain.apiVersion)
    offered = features.query(physical, version, extensions)
    return DeviceInfo(
        index=index,
        name=text(plain.deviceName),
        vendor=_VENDORS.get(plain.vendorID, f"vendor 0x{plain.vendorID:x}"),
        vendor_id=plain.vendorID,
        device_id=plain.deviceID,
        type=_TYPES.get(plain.deviceType, DeviceType.OTHER),
        driver=f"{text(v12.driverName)} {text(v12.driverInfo)}".strip(),
        version=version,
        uuid=bytes(v11.deviceUUID).hex(),
        pipeline_cache_uuid=bytes(plain.pipelineCacheUUID).hex(),
        compute_family=_compute_family(physical)[0],
        heaps=_heaps(physical),
        limits=_limits(physical, plain.limits, v11, _cores(physical, extensions)),
        subgroup=_subgroup(v11, v13 if offered.subgroup_size_control else None),
        features=offered,
        matrices=_matrices(instance, physical) if offered.cooperative_matrix else (),
        extensions=frozenset(extensions),
    )


def _properties(physical: Any) -> tuple[Any, Any, Any, Any]:
    plain = ffi.new("VkPhysicalDeviceProperties *")
    lib.vkGetPhysicalDeviceProperties(physical, plain)
    v13 = struct("VkPhysicalDeviceVulkan13Properties")
    known = _version(plain.apiVersion) >= (1, 3, 0)
    v12 = struct("VkPhysicalDeviceVulkan12Properties", pNext=v13 if known else ffi.NULL)
    v11 = struct("VkPhysicalDeviceVulkan11Properties", pNext=v12)
    lib.vkGetPhysicalDeviceProperties2(physical, struct("VkPhysicalDeviceProperties2", pNext=v11))
    return plain, v11, v12, v13


def _cores(physical: Any, extensions: set[str]) -> int:
    """How many processors share the workgroups, if a vendor's extension tells."""
    for extension, (name, member) in _CORES.items():
        if extension in extensions:
            found = struct(name)
            properties = struct("VkPhysicalDeviceProperties2", pNext=found)
            lib.vkGetPhysicalDeviceProperties2(physical, properties)
            return int(getattr(found, member))
    return 0


_CORES = {
    "VK_NV_shader_sm_builtins": (
        "VkPhysicalDeviceShaderSMBuiltinsPropertiesNV",
        "shaderSMCount",
    ),
    "VK_AMD_shader_core_properties2": (
        "VkPhysicalDeviceShaderCoreProperties2AMD",
        "activeComputeUnitCount",
    ),
}
"""Structures of properties and the member that counts them, by their extension."""


def _limits(physical: Any, limits: Any, v11: Any, cores: int) -> DeviceLimits:
    timestamps = _compute_family(physical)[1] > 0
    return DeviceLimits(
        storage_range=limits.maxStorageBufferRange,
        allocation=v11.maxMemoryAllocationSize,
        allocation_count=limits.maxMemoryAllocationCount,
        storage_alignment=limits.minStorageBufferOffsetAlignment,
        invocations=limits.maxComputeWorkGroupInvocations,
        workgroup_size=_triple(limits.maxComputeWorkGroupSize),
        workgroup_count=_triple(limits.maxComputeWorkGroupCount),
        shared_memory=limits.maxComputeSharedMemorySize,
        storage_bindings=min(
            limits.maxPerStageDescriptorStorageBuffers,
            limits.maxDescriptorSetStorageBuffers,
            limits.maxPerStageResources,
        ),
        push_constants=limits.maxPushConstantsSize,
        timestamp_period=limits.timestampPeriod if timestamps else 0.0,
        cores=cores,
    )


def _subgroup(v11: Any, v13: Any | None) -> Subgroup:
    supported = v11.subgroupSupportedOperations
    size = v11.subgroupSize
    return Subgroup(
        size=size,
        minimum=size if v13 is None else v13.minSubgroupSize,
        maximum=size if v13 is None else v13.maxSubgroupSize,
        operations=tuple(name for bit, name in enumerate(_OPERATIONS) if supported >> bit & 1),
    )


def _heaps(physical: Any) -> tuple[Heap, ...]:
    memory = ffi.new("VkPhysicalDeviceMemoryProperties *")
    lib.vkGetPhysicalDeviceMemoryProperties(physical, memory)
    heaps = memory.memoryHeaps[0 : memory.memoryHeapCount]
    return tuple(Heap(h.size, bool(h.flags & lib.VK_MEMORY_HEAP_DEVICE_LOCAL_BIT)) for h in heaps)


def _compute_family(physical: Any) -> tuple[int, int]:
    """The first queue family that computes, and the bits of its timestamps."""
    families = enumerate_all(
        lib.vkGetPhysicalDeviceQueueFamilyProperties, "VkQueueFamilyProperties", physical
    )
    for index, family in enumerate(families):
        if family.queueFlags & lib.VK_QUEUE_COMPUTE_BIT:
            return index, family.timestampValidBits
    return -1, 0


def _matrices(instance: Instance, physical: Any) -> tuple[MatrixShape, ...]:
    function = instance_function(
        instance.handle, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"
    )
    shapes = enumerate_all(function, "VkCooperativeMatrixPropertiesKHR", physical)
    return tuple(
        MatrixShape(s.MSize, s.NSize, s.KSize, *map(_component, _component_types(s)))
        for s in shapes
        if s.scope == lib.VK_SCOPE_SUBGROUP_KHR
    )


def _component_types(shape: Any) -> tuple[int, int, int, int]:
    return shape.AType, shape.BType, shape.CType, shape.ResultType


def _component(number: int) -> str:
    names = ("f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
    if number < len(names):
        return names[number]
    return {1000141000: "bf16", 1000491002: "f8e4m3", 1000491003: "f8e5m2"}.get(
        number, f"type{number}"
    )


def _version(number: int) -> tuple[int, int, int]:
    """The parts of a packed version number: 7, 10 and 12 bits."""
    return number >> 22 & 0x7F, number >> 12 & 0x3FF, number & 0xFFF


def _triple(values: Any) -> tuple[int, int, int]:
    return values[0], values[1], values[2]


_TYPES = {
    lib.VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: DeviceType.DISCRETE,
    lib.VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: DeviceType.INTEGRATED,
    lib.VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: DeviceType.VIRTUAL,
    lib.VK_PHYSICAL_DEVICE_TYPE_CPU: DeviceType.CPU,
}
_VENDORS = {
    0x1002: "AMD",
    0x1010: "Imagination",
    0x106B: "Apple",
    0x10DE: "NVIDIA",
    0x13B5: "Arm",
    0x5143: "Qualcomm",
    0x8086: "Intel",
    0x10005: "Mesa",
}
"""PCI vendor numbers, and Khronos' own for those without one."""
_OPERATIONS = (
    "basic",
    "vote",
    "arithmetic",
    "ballot",
    "shuffle",
    "shuffle_relative",
    "clustered",
    "quad",
)
"""Names of the bits of VkSubgroupFeatureFlags, the lowest first."""
