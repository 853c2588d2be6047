"""Options and helpers that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..backends.numpy.backend import NumpyBackend
from ..graph.errors import BitgraphError
from ..graph.program import Backend

PATH = click.Path(path_type=Path)

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

model_option = click.option(
    "--model",
    type=PATH,
    required=True,
    help="BitNet model: a GGUF file, or a Hugging Face folder.",
)
activation_option = click.option(
    "--activation",
    type=click.Choice(["relu2", "silu"]),
    help="Activation of a file that does not say its own (architecture 'bitnet').",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "numpy", "vulkan"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU if there is one, else NumPy.",
)
device_option = click.option(
    "--device", help="Vulkan device, by its index or a part of its name; see `bitgraph devices`."
)


def make_backend(name: str, device: str | None) -> Backend:
    """The backend of that name, closed when the command ends.

    Raises:
        BitgraphError: Vulkan is asked for and there is no such device.
    """
    if name == "numpy":
        if device is not None:
            raise BitgraphError("--device chooses a Vulkan device; leave out --backend numpy")
        return NumpyBackend()
    try:
        return _vulkan_backend(device)
    except BitgraphError:
        if name == "vulkan" or device is not None:
            raise
        return NumpyBackend()


def _vulkan_backend(device: str | None) -> Backend:
    from ..backends.vulkan.backend import VulkanBackend  # only where Vulkan is wanted: slow
    from ..backends.vulkan.device import Device
    from ..backends.vulkan.query import select_device

    opened = Device.open(select_device(device))
    click.get_current_context().call_on_close(opened.close)
    return VulkanBackend(opened)


def from_defaults(options: type[Any], name: str) -> dict[str, Any]:
    """Arguments of `click.option` that take an option's default from a dataclass."""
    return {"default": getattr(options, name), "show_default": True}
