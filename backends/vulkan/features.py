"""Which optional abilities of a device are used: asked for here, switched on here.

A field of `Features` is true where the device offers every member of its row in the table.
"""

from dataclasses import fields
from typing import Any

from .api import NULL, lib, struct
from .info import Features

_CORE = "VkPhysicalDeviceFeatures2"
_V11 = "VkPhysicalDeviceVulkan11Features"
_V12 = "VkPhysicalDeviceVulkan12Features"
_V13 = "VkPhysicalDeviceVulkan13Features"
_KHR = "VkPhysicalDeviceCooperativeMatrixFeaturesKHR"
_NV2 = "VkPhysicalDeviceCooperativeMatrix2FeaturesNV"
_BF16 = "VkPhysicalDeviceShaderBfloat16FeaturesKHR"

_TABLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "shader_int16": (_CORE, ("shaderInt16",)),
    "shader_int64": (_CORE, ("shaderInt64",)),
    "storage16": (_V11, ("storageBuffer16BitAccess",)),
    "storage8": (_V12, ("storageBuffer8BitAccess",)),
    "shader_int8": (_V12, ("shaderInt8",)),
    "shader_float16": (_V12, ("shaderFloat16",)),
    "timeline_semaphore": (_V12, ("timelineSemaphore",)),
    "buffer_device_address": (_V12, ("bufferDeviceAddress",)),
    "scalar_block_layout": (_V12, ("scalarBlockLayout",)),
    "subgroup_extended_types": (_V12, ("shaderSubgroupExtendedTypes",)),
    "vulkan_memory_model": (_V12, ("vulkanMemoryModel", "vulkanMemoryModelDeviceScope")),
    "integer_dot_product": (_V13, ("shaderIntegerDotProduct",)),
    "subgroup_size_control": (_V13, ("subgroupSizeControl",)),
    "full_subgroups": (_V13, ("computeFullSubgroups",)),
    "synchronization2": (_V13, ("synchronization2",)),
    "maintenance4": (_V13, ("maintenance4",)),
    "cooperative_matrix": (_KHR, ("cooperativeMatrix",)),
    "cooperative_matrix2": (
        _NV2,
        (
            "cooperativeMatrixWorkgroupScope",
            "cooperativeMatrixFlexibleDimensions",
            "cooperativeMatrixReductions",
            "cooperativeMatrixConversions",
            "cooperativeMatrixPerElementOperations",
            "cooperativeMatrixTensorAddressing",
            "cooperativeMatrixBlockLoads",
        ),
    ),
    "bfloat16": (_BF16, ("shaderBFloat16Type", "shaderBFloat16CooperativeMatrix")),
}

_EXTENSIONS = {
    _KHR: "VK_KHR_cooperative_matrix",
    _NV2: "VK_NV_cooperative_matrix2",
    _BF16: "VK_KHR_shader_bfloat16",
}
_ALWAYS = ("VK_EXT_memory_budget", "VK_KHR_portability_subset")


def query(physical: Any, version: tuple[int, int, int], extensions: set[str]) -> Features:
    """What a VkPhysicalDevice offers."""
    structures = _chain(version, extensions)
    lib.vkGetPhysicalDeviceFeatures2(physical, structures[_CORE])
    return Features(**{f.name: _offered(structures, f.name) for f in fields(Features)})


def enable(
    features: Features, version: tuple[int, int, int], extensions: set[str]
) -> tuple[Any, list[str]]:
    """The pNext chain that switches the features on, and the extensions to ask for."""
    structures = _chain(version, extensions)
    for name, (structure, members) in _TABLE.items():
        if getattr(features, name):
            for member in members:
                setattr(_members(structures[structure]), member, 1)
    wanted = [e for s, e in _EXTENSIONS.items() if s in structures]
    return structures[_CORE], wanted + [e for e in _ALWAYS if e in extensions]


def _chain(version: tuple[int, int, int], extensions: set[str]) -> dict[str, Any]:
    """The structures that the device knows, by name, each pointing to the one before it."""
    names = [_V11, _V12]
    if version >= (1, 3, 0):
        names.append(_V13)
    names += [s for s, extension in _EXTENSIONS.items() if extension in extensions]
    structures: dict[str, Any] = {}
    last: Any = NULL
    for name in names:
        structures[name] = last = struct(name, pNext=last)
    structures[_CORE] = struct(_CORE, pNext=last)
    return structures


def _members(structure: Any) -> Any:
    """Where a structure holds its booleans: that of Vulkan 1.0 lies one level deeper."""
    return getattr(structure, "features", structure)


def _offered(structures: dict[str, Any], name: str) -> bool:
    structure, members = _TABLE[name]
    if structure not in structures:
        return False
    return all(getattr(_members(structures[structure]), member) for member in members)
