"""Kernels as compute pipelines: compiled once, specialized, kept in memory and on disk."""

import os
import struct as packing
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

from ...graph.storage import Storage
from .api import NULL, check, create, ffi, lib, name_object, struct
from .chain_source import chain_source
from .chains import is_chain
from .compiler import compile_shaders
from .errors import DeviceError
from .info import DeviceInfo
from .spirv import Constant, ShaderInterface, reflect
from .variants import base_of

Value: TypeAlias = bool | int | float
Specialization: TypeAlias = tuple[tuple[str, Value], ...]
Key: TypeAlias = tuple[str, Specialization]

SUBGROUP_SIZE = "SUBGROUP_SIZE"
"""A kernel with a specialization constant of this name runs in full subgroups of that size."""


@dataclass(frozen=True)
class Pipeline:
    """A kernel ready to run.

    Attributes:
        kernel: its name.
        handle: the VkPipeline.
        layout: the VkPipelineLayout, shared by all kernels with as many bindings.
        set_layout: the VkDescriptorSetLayout, likewise.
        interface: what the kernel takes.
    """

    kernel: str
    handle: Any
    layout: Any
    set_layout: Any
    interface: ShaderInterface


class Pipelines:
    """The pipelines of a device."""

    def __init__(
        self, device: Any, info: DeviceInfo, folders: Sequence[Path], storage: Path
    ) -> None:
        """Open the pipeline cache.

        Args:
            device: the VkDevice.
            info: what it can do.
            folders: where shaders are, the first that has one wins; all are searched by #include.
            storage: the folder that keeps compiled files.
        """
        self._device, self._info, self._folders = device, info, tuple(folders)
        self._spirv = Storage(storage / "spirv")
        self._files = Storage(storage / "pipelines")
        self._generated = tempfile.TemporaryDirectory(prefix="bitgraph-")
        self._lock = Lock()
        self._modules: dict[str, tuple[Any, ShaderInterface]] = {}
        self._layouts: dict[int, tuple[Any, Any]] = {}
        self._pipelines: dict[Key, Pipeline] = {}
        self._kept = self._files.read("pipelines", self.key) or b""
        if not _belongs(self._kept, info):
            self._kept = b""
        data = ffi.new("uint8_t[]", self._kept) if self._kept else NULL
        cache_info = struct(
            "VkPipelineCacheCreateInfo", initialDataSize=len(self._kept), pInitialData=data
        )
        self._cache = create(lib.vkCreatePipelineCache, "VkPipelineCache", device, cache_info, NULL)

    def get(self, kernel: str, specialization: Mapping[str, Value]) -> Pipeline:
        """One pipeline; see `prepare`."""
        key = (kernel, tuple(sorted(specialization.items())))
        return self.prepare([key])[key]

    def prepare(self, keys: Iterable[Key]) -> dict[Key, Pipeline]:
        """Pipelines by kernel and specialization; what is missing is made, several at a time.

        Raises:
            BitgraphError: a kernel is unknown or does not compile, a specialization constant is
                unknown or out of range, or the device's limits are exceeded.
        """
        wanted = dict.fromkeys(keys)
        with self._lock:
            missing = [key for key in wanted if key not in self._pipelines]
            self._load({kernel for kernel, _ in missing})
            for kernel, _ in missing:
                self._layout(len(self._modules[kernel][1].bindings))
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                # All are waited for and kept before an error goes on, so that none leaks.
                futures = [(key, pool.submit(self._create, *key)) for key in missing]
            for key, future in futures:
                if future.exception() is None:
                    self._pipelines[key] = future.result()
            for _, future in futures:
                future.result()
            return {key: self._pipelines[key] for key in wanted}

    def close(self) -> None:
        """Write the pipeline cache and destroy everything."""
        self._save()
        for pipeline in self._pipelines.values():
            lib.vkDestroyPipeline(self._device, pipeline.handle, NULL)
        for module, _ in self._modules.values():
            lib.vkDestroyShaderModule(self._device, module, NULL)
        for set_layout, layout in self._layouts.values():
            lib.vkDestroyPipelineLayout(self._device, layout, NULL)
            lib.vkDestroyDescriptorSetLayout(self._device, set_layout, NULL)
        lib.vkDestroyPipelineCache(self._device, self._cache, NULL)
        self._generated.cleanup()

    @property
    def key(self) -> str:
        """What tells this device and driver from others."""
        info = self._info
        return f"{info.vendor_id} {info.device_id} {info.pipeline_cache_uuid} {info.driver}"

    def _load(self, kernels: set[str]) -> None:
        """Compile the shaders that are not loaded yet."""
        sources = {k: self._source(k) for k in sorted(kernels) if k not in self._modules}
        target = "vulkan1.3" if self._info.version >= (1, 3, 0) else "vulkan1.2"
        compiled = compile_shaders(sources, self._folders, target, self._spirv) if sources else {}
        for kernel, spirv in compiled.items():
            interface = reflect(spirv, kernel)
            _check_bindings(kernel, len(interface.bindings), self._info)
            code = ffi.new("uint32_t[]", len(spirv) // 4)
            ffi.memmove(code, spirv, len(spirv))
            info = struct("VkShaderModuleCreateInfo", codeSize=len(spirv), pCode=code)
            module = create(lib.vkCreateShaderModule, "VkShaderModule", self._device, info, NULL)
            self._modules[kernel] = module, interface

    def _source(self, kernel: str) -> Path:
        if is_chain(kernel):
            path = Path(self._generated.name) / f"{kernel}.comp"
            path.write_text(chain_source(kernel))
            return path
        for folder in self._folders:
            path = folder / f"{base_of(kernel)}.comp"
            if path.is_file():
                return path
        places = ", ".join(str(folder) for folder in self._folders)
        raise DeviceError(f"there is no kernel {kernel}: no {base_of(kernel)}.comp in {places}")

    def _layout(self, count: int) -> tuple[Any, Any]:
        """The layouts of kernels with that many storage buffers."""
        if count not in self._layouts:
            bindings = ffi.new("VkDescriptorSetLayoutBinding[]", count)
            for number in range(count):
                bindings[number].binding = number
                bindings[number].descriptorType = lib.VK_DESCRIPTOR_TYPE_STORAGE_BUFFER
                bindings[number].descriptorCount = 1
                bindings[number].stageFlags = lib.VK_SHADER_STAGE_COMPUTE_BIT
            info = struct("VkDescriptorSetLayoutCreateInfo", bindingCount=count, pBindings=bindings)
            set_layout = create(
                lib.vkCreateDescriptorSetLayout, "VkDescriptorSetLayout", self._device, info, NULL
            )
            info = struct(
                "VkPipelineLayoutCreateInfo",
                setLayoutCount=1,
                pSetLayouts=ffi.new("VkDescriptorSetLayout[1]", [set_layout]),
            )
            layout = create(
                lib.vkCreatePipelineLayout, "VkPipelineLayout", self._device, info, NULL
            )
            self._layouts[count] = set_layout, layout
        return self._layouts[count]

    def _create(self, kernel: str, specialization: Specialization) -> Pipeline:
        module, interface = self._modules[kernel]
        values = dict(specialization)
        constants = pack_constants(kernel, interface, values)
        workgroup = interface.workgroup(values)
        _check_workgroup(kernel, workgroup, self._info)
        size, flags = _subgroup(kernel, interface, values, workgroup, self._info)
        stage = struct(
            "VkPipelineShaderStageCreateInfo",
            pNext=size,
            flags=flags,
            stage=lib.VK_SHADER_STAGE_COMPUTE_BIT,
            module=module,
            pName=ffi.new("char[]", b"main"),
            pSpecializationInfo=_specialization_info(constants),
        )
        set_layout, layout = self._layouts[len(interface.bindings)]
        info = struct("VkComputePipelineCreateInfo", stage=stage, layout=layout)
        handle = ffi.new("VkPipeline *")
        result = lib.vkCreateComputePipelines(self._device, self._cache, 1, info, NULL, handle)
        check(result, f"making the pipeline of kernel {kernel}")
        name_object(self._device, lib.VK_OBJECT_TYPE_PIPELINE, handle[0], kernel)
        return Pipeline(kernel, handle[0], layout, set_layout, interface)

    def _save(self) -> None:
        """Keep the driver's pipeline cache if it has changed."""
        size = ffi.new("size_t *")
        if lib.vkGetPipelineCacheData(self._device, self._cache, size, NULL) or not size[0]:
            return
        data = ffi.new("uint8_t[]", size[0])
        if lib.vkGetPipelineCacheData(self._device, self._cache, size, data):
            return
        contents = bytes(ffi.buffer(data, size[0]))
        if contents != self._kept and _belongs(contents, self._info):
            self._files.write("pipelines", self.key, contents)


def pack_constants(
    kernel: str, interface: ShaderInterface, values: Mapping[str, Value]
) -> list[tuple[int, bytes]]:
    """The number and the four bytes of each specialization constant, given or by default.

    Defaults are passed too: a workgroup size declared by `local_size_x_id` is a constant of its
    own in SPIR-V, which is 1 unless given, whatever the default of the constant of that number.

    Raises:
        DeviceError: the kernel has no such constant, or the value is not of its type.
    """
    unknown = sorted(set(values) - set(interface.constants))
    if unknown:
        known = ", ".join(interface.constants) or "none"
        raise DeviceError(
            f"kernel {kernel} has no specialization constant {unknown[0]}; it has: {known}"
        )
    return [
        (constant.number, _pack(kernel, constant, values.get(name, constant.default)))
        for name, constant in interface.constants.items()
    ]


def _pack(kernel: str, constant: Constant, value: Value) -> bytes:
    code = {"bool": "<I", "int": "<i", "uint": "<I", "float": "<f"}[constant.kind]
    whole = constant.kind != "float" and isinstance(value, float) and value.is_integer()
    try:
        if constant.kind == "bool" and value not in (0, 1):
            raise ValueError
        return packing.pack(code, int(value) if whole else value)
    except (packing.error, ValueError, OverflowError) as error:
        raise DeviceError(
            f"kernel {kernel}: specialization constant {constant.name} is of type "
            f"{constant.kind} and cannot be {value}"
        ) from error


def _specialization_info(constants: list[tuple[int, bytes]]) -> Any:
    entries = ffi.new("VkSpecializationMapEntry[]", len(constants))
    for index, (number, _) in enumerate(constants):
        entries[index].constantID = number
        entries[index].offset = 4 * index
        entries[index].size = 4
    data = ffi.new("uint8_t[]", b"".join(packed for _, packed in constants) or b"\0")
    return struct(
        "VkSpecializationInfo",
        mapEntryCount=len(constants),
        pMapEntries=entries,
        dataSize=4 * len(constants),
        pData=data,
    )


def _subgroup(
    kernel: str,
    interface: ShaderInterface,
    values: Mapping[str, Value],
    workgroup: tuple[int, int, int],
    info: DeviceInfo,
) -> tuple[Any, int]:
    """What asks for full subgroups of the kernel's SUBGROUP_SIZE: a structure and stage flags."""
    constant = interface.constants.get(SUBGROUP_SIZE)
    if constant is None:
        return NULL, 0
    wanted = int(values.get(SUBGROUP_SIZE, constant.default))
    low, high = info.subgroup.minimum, info.subgroup.maximum
    if not low <= wanted <= high:
        raise DeviceError(
            f"kernel {kernel} asks for subgroups of {wanted}, but {info.name} has {low} to {high}"
        )
    if not info.features.subgroup_size_control:
        return NULL, 0
    size = struct(
        "VkPipelineShaderStageRequiredSubgroupSizeCreateInfo", requiredSubgroupSize=wanted
    )
    full = info.features.full_subgroups and workgroup[0] % wanted == 0
    flags = lib.VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT if full else 0
    return size, flags


def _check_workgroup(kernel: str, workgroup: tuple[int, int, int], info: DeviceInfo) -> None:
    x, y, z = workgroup
    sizes, most = info.limits.workgroup_size, info.limits.invocations
    fits = all(1 <= size <= limit for size, limit in zip(workgroup, sizes, strict=True))
    if not fits or x * y * z > most:
        raise DeviceError(
            f"kernel {kernel}: a workgroup of {x}x{y}x{z} exceeds {info.name}'s "
            f"{sizes[0]}x{sizes[1]}x{sizes[2]} and {most} invocations"
        )


def _check_bindings(kernel: str, count: int, info: DeviceInfo) -> None:
    if count > info.limits.storage_bindings:
        raise DeviceError(
            f"kernel {kernel} has {count} bindings, but {info.name} takes "
            f"{info.limits.storage_bindings}"
        )


def _belongs(data: bytes, info: DeviceInfo) -> bool:
    """Whether pipeline cache data is this device's (its header: Vulkan 1.3, section 10.7.2)."""
    if len(data) < 32:
        return False
    length, version, vendor, device = packing.unpack("<4I", data[:16])
    uuid = data[16:32].hex()
    return (length, version, vendor, device, uuid) == (
        32,
        1,
        info.vendor_id,
        info.device_id,
        info.pipeline_cache_uuid,
    )
