"""The Vulkan instance, with or without the validation layer."""

import os
from types import TracebackType
from typing import Any

from ...graph.errors import BitgraphError
from .api import (
    INSTALL,
    NULL,
    check,
    create,
    enumerate_all,
    ffi,
    instance_function,
    lib,
    strings,
    struct,
    text,
)

VALIDATION_LAYER = "VK_LAYER_KHRONOS_validation"
API_VERSION = (1 << 22) | (3 << 12)
"""Vulkan 1.3, the newest version whose features are used."""


def validation_wanted() -> bool:
    """Whether the environment variable BITGRAPH_VALIDATION asks for the validation layer."""
    return os.environ.get("BITGRAPH_VALIDATION", "0") not in ("", "0")


class Instance:
    """A connection to the Vulkan loader.

    Attributes:
        handle: the VkInstance.
        messages: warnings and errors of the validation layer, in the order they came.
    """

    def __init__(self, validation: bool = False, synchronization: bool = False) -> None:
        """Connect.

        Args:
            validation: check every call with the validation layer.
            synchronization: check for missing barriers too; implies `validation`.

        Raises:
            BitgraphError: no driver, or no validation layer where it is asked for.
        """
        validation = validation or synchronization
        if validation:
            _require_layer()
        self.messages: list[str] = []
        extensions = {"VK_EXT_debug_utils"} if validation else set()
        portability = "VK_KHR_portability_enumeration"
        if portability in _instance_extensions():
            extensions.add(portability)
        self._callback = ffi.callback("PFN_vkDebugUtilsMessengerCallbackEXT", self._on_message)
        messenger = self._messenger_info()
        checks = [lib.VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT]
        features = struct(
            "VkValidationFeaturesEXT",
            pNext=messenger,
            enabledValidationFeatureCount=len(checks),
            pEnabledValidationFeatures=ffi.new("VkValidationFeatureEnableEXT[]", checks),
        )
        chain = features if synchronization else messenger if validation else NULL
        self.handle = _create_instance(chain, sorted(extensions), validation)
        self._messenger = NULL
        if validation:
            make = instance_function(self.handle, "vkCreateDebugUtilsMessengerEXT")
            self._messenger = create(make, "VkDebugUtilsMessengerEXT", self.handle, messenger, NULL)

    def physical_devices(self) -> list[Any]:
        """The VkPhysicalDevice handles, in the loader's order."""
        return list(enumerate_all(lib.vkEnumeratePhysicalDevices, "VkPhysicalDevice", self.handle))

    def close(self) -> None:
        """Disconnect; `messages` stays readable."""
        if self.handle == NULL:
            return
        if self._messenger != NULL:
            destroy = instance_function(self.handle, "vkDestroyDebugUtilsMessengerEXT")
            destroy(self.handle, self._messenger, NULL)
        lib.vkDestroyInstance(self.handle, NULL)
        self.handle = NULL

    def __enter__(self) -> "Instance":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _messenger_info(self) -> Any:
        return struct(
            "VkDebugUtilsMessengerCreateInfoEXT",
            messageSeverity=lib.VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT
            | lib.VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
            messageType=lib.VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
            pfnUserCallback=self._callback,
        )

    def _on_message(self, severity: int, kinds: int, data: Any, user: Any) -> int:
        self.messages.append(text(data.pMessage))
        return 0


def _create_instance(chain: Any, extensions: list[str], validation: bool) -> Any:
    application = struct(
        "VkApplicationInfo",
        pApplicationName=ffi.new("char[]", b"bitgraph"),
        apiVersion=API_VERSION,
    )
    portable = "VK_KHR_portability_enumeration" in extensions
    layers = [VALIDATION_LAYER] if validation else []
    info = struct(
        "VkInstanceCreateInfo",
        pNext=chain,
        flags=lib.VK_INSTANCE_CREATE_ENUMERATE_PORTABILITY_BIT_KHR if portable else 0,
        pApplicationInfo=application,
        enabledLayerCount=len(layers),
        ppEnabledLayerNames=strings(layers),
        enabledExtensionCount=len(extensions),
        ppEnabledExtensionNames=strings(extensions),
    )
    handle = ffi.new("VkInstance *")
    result = lib.vkCreateInstance(info, NULL, handle)
    if result == lib.VK_ERROR_INCOMPATIBLE_DRIVER:
        raise BitgraphError(f"no Vulkan driver was found; {INSTALL}")
    check(result, "connecting to the Vulkan driver")
    return handle[0]


def _instance_extensions() -> set[str]:
    items = enumerate_all(lib.vkEnumerateInstanceExtensionProperties, "VkExtensionProperties", NULL)
    return {text(item.extensionName) for item in items}


def _require_layer() -> None:
    layers = enumerate_all(lib.vkEnumerateInstanceLayerProperties, "VkLayerProperties")
    if VALIDATION_LAYER not in {text(layer.layerName) for layer in layers}:
        raise BitgraphError(
            f"{VALIDATION_LAYER} is not installed; install it (on Debian and Ubuntu: "
            "apt install vulkan-validationlayers) or run without validation"
        )
