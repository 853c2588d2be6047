"""The Vulkan API as C declares it, through the `vulkan` package's cffi bindings.

The package's own wrapper functions are left alone: they cost more per call and some are wrong
(`vkGetBufferDeviceAddress` returns its argument). `lib` holds the functions and constants.

Importing this module loads the Vulkan loader and raises BitgraphError where there is none, so
import it, and what builds on it, only once Vulkan is asked for.
"""

import inspect
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import cffi

from ...graph.errors import BitgraphError
from .errors import DeviceError, DeviceLost

INSTALL = (
    "install a Vulkan driver (on Debian and Ubuntu: apt install libvulkan1 mesa-vulkan-drivers; "
    "for NVIDIA GPUs the vendor's driver brings its own)"
)

try:
    import vulkan
except (ImportError, OSError) as error:
    raise BitgraphError(f"the Vulkan loader (libvulkan) was not found; {INSTALL}") from error

ffi: Any = vulkan.ffi
lib: Any = vulkan.lib
NULL: Any = ffi.NULL

_newer: Any = cffi.FFI()
_newer.cdef("""
    typedef struct VkPhysicalDeviceCooperativeMatrix2FeaturesNV {
        uint32_t sType; void *pNext;
        uint32_t cooperativeMatrixWorkgroupScope; uint32_t cooperativeMatrixFlexibleDimensions;
        uint32_t cooperativeMatrixReductions; uint32_t cooperativeMatrixConversions;
        uint32_t cooperativeMatrixPerElementOperations; uint32_t cooperativeMatrixTensorAddressing;
        uint32_t cooperativeMatrixBlockLoads;
    } VkPhysicalDeviceCooperativeMatrix2FeaturesNV;
    typedef struct VkPhysicalDeviceShaderBfloat16FeaturesKHR {
        uint32_t sType; void *pNext;
        uint32_t shaderBFloat16Type; uint32_t shaderBFloat16DotProduct;
        uint32_t shaderBFloat16CooperativeMatrix;
    } VkPhysicalDeviceShaderBfloat16FeaturesKHR;
""")
_NEWER_TYPES = {
    "VkPhysicalDeviceCooperativeMatrix2FeaturesNV": 1000593000,
    "VkPhysicalDeviceShaderBfloat16FeaturesKHR": 1000141000,
}
"""Structures that the package does not know yet, with their sType (Vulkan registry, vk.xml)."""

_kept: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def struct(name: str, **fields: Any) -> Any:
    """A pointer to a new structure with its sType set; what the fields point to lives with it.

    A field that is itself a structure takes a pointer to one. Fields not given are zero.
    """
    owner = _newer if name in _NEWER_TYPES else ffi
    s_type, nested = _layout(name)
    values = {k: v[0] if k in nested else v for k, v in fields.items()}
    if s_type is not None:
        values["sType"] = s_type
    pointer = owner.new(f"{name} *", values)
    _kept[pointer] = [v for v in fields.values() if isinstance(v, ffi.CData)]
    return pointer


@cache
def _layout(name: str) -> tuple[int | None, frozenset[str]]:
    """A structure's sType, if it has one, and the fields that are structures."""
    if name in _NEWER_TYPES:
        return _NEWER_TYPES[name], frozenset()
    kind = ffi.typeof(name)
    if kind.kind != "struct":
        return None, frozenset()
    parameters = inspect.signature(getattr(vulkan, name)).parameters
    s_type = parameters["sType"].default if "sType" in parameters else None
    return s_type, frozenset(n for n, f in kind.fields if f.type.kind == "struct")


def array(name: str, items: Any) -> Any:
    """A C array of the items, or of that many zeros."""
    return ffi.new(f"{name}[]", items)


def strings(items: list[str]) -> Any:
    """A C array of C strings, or NULL for none."""
    if not items:
        return NULL
    encoded = [ffi.new("char[]", item.encode()) for item in items]
    pointer = ffi.new("char *[]", encoded)
    _kept[pointer] = encoded
    return pointer


def text(chars: Any) -> str:
    """The Python string of a C string."""
    return str(ffi.string(chars).decode("utf-8", "replace"))


def check(result: int, doing: str) -> None:
    """Raise what a failed call means.

    Args:
        result: the VkResult.
        doing: what was being done, to follow "while".

    Raises:
        DeviceLost: the device is gone.
        DeviceError: any other failure.
    """
    if result >= 0:
        return
    if result == lib.VK_ERROR_DEVICE_LOST:
        raise DeviceLost(
            f"the device was lost while {doing} (its driver reset it, or it ran too long); "
            "nothing on it can be read any more: start again from the last checkpoint"
        )
    raise DeviceError(f"Vulkan failed while {doing} with {_result_name(result)}; see the driver")


def _result_name(result: int) -> str:
    names = ffi.typeof("VkResult").elements
    return str(names.get(result, result)).removeprefix("VK_")


def create(function: Any, handle_type: str, *arguments: Any) -> Any:
    """Call a `vkCreate...` function, whose last argument is where the handle goes."""
    handle = ffi.new(f"{handle_type} *")
    check(function(*arguments, handle), f"creating a {handle_type}")
    return handle[0]


def enumerate_all(function: Any, item_type: str, *arguments: Any) -> Any:
    """Call a Vulkan function that fills an array, for all of its items."""
    count = ffi.new("uint32_t *")
    check(function(*arguments, count, NULL) or 0, f"listing {item_type}")
    items = ffi.new(f"{item_type}[]", count[0])
    s_type, _ = _layout(item_type)
    if s_type is not None:
        for item in items:
            item.sType = s_type
    check(function(*arguments, count, items) or 0, f"listing {item_type}")
    return items


def instance_function(instance: Any, name: str) -> Any:
    """A function of an instance extension."""
    address = lib.vkGetInstanceProcAddr(instance, name.encode())
    return ffi.cast(f"PFN_{name}", address)


def name_object(device: Any, kind: int, handle: Any, name: str) -> None:
    """Give an object a name that the validation layer's messages show, if it is there.

    Args:
        device: the VkDevice.
        kind: the VkObjectType.
        handle: of the object.
        name: for people.
    """
    address = lib.vkGetDeviceProcAddr(device, b"vkSetDebugUtilsObjectNameEXT")
    if address == NULL:
        return
    info = struct(
        "VkDebugUtilsObjectNameInfoEXT",
        objectType=kind,
        objectHandle=int(ffi.cast("uintptr_t", handle)),
        pObjectName=ffi.new("char[]", name.encode()),
    )
    check(ffi.cast("PFN_vkSetDebugUtilsObjectNameEXT", address)(device, info), "naming an object")
