"""Options and helpers that several commands share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..backends.numpy.backend import NumpyBackend
from ..graph.errors import BitgraphError
from ..graph.program import Backend
from ..graph.types import DType
from ..models.bitnet.checkpoint import load_checkpoint
from ..models.bitnet.config import PROJECTIONS, BitNetConfig
from ..models.bitnet.forward import embedding_dtype
from ..models.bitnet.presets import PRESETS, preset_config

PATH = click.Path(path_type=Path)


class Names(click.ParamType[tuple[str, ...], "str | Sequence[str]"]):
    """Words separated by commas, as a tuple."""

    name = "names"

    def convert(
        self,
        value: str | Sequence[str],
        parameter: click.Parameter | None,
        context: click.Context | None,
    ) -> tuple[str, ...]:
        """The words; a sequence has been separated before."""
        words = value.split(",") if isinstance(value, str) else value
        return tuple(word.strip() for word in words if word.strip())


CommandT = TypeVar("CommandT", bound=Callable[..., Any])

model_option = click.option(
    "--model",
    type=PATH,
    required=True,
    help="BitNet model: a GGUF file, a Hugging Face folder, or demo for the bundled one.",
)
lora_option = click.option(
    "--lora",
    multiple=True,
    metavar="[NAME=]PATH[@SCALE]",
    help="LoRA adapter, in any format `bitgraph export` writes; several are added up.",
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


def geometry_options(command: CommandT) -> CommandT:
    """Options of commands that need a model's geometry, but not its weights; see `geometry`."""
    command = click.option(
        "--layers", type=click.IntRange(min=1), help="With --preset: transformer blocks."
    )(command)
    command = click.option(
        "--preset", type=click.Choice(list(PRESETS)), help="A known geometry instead."
    )(command)
    return click.option("--model", type=PATH, help="BitNet model, a GGUF file.")(command)


def geometry(
    model: Path | None, preset: str | None, layers: int | None, activation: str | None
) -> tuple[BitNetConfig, DType]:
    """A configuration, and the element type of the embedding.

    Raises:
        BitgraphError: not one of --model and --preset is given, or the model cannot be read.
    """
    if (model is None) == (preset is None):
        raise BitgraphError("give either --model or --preset")
    if preset is not None:
        return preset_config(preset, num_hidden_layers=layers), DType.F16
    if layers is not None:
        raise BitgraphError("--layers changes a --preset; a --model has the layers it has")
    assert model is not None
    checkpoint = load_checkpoint(model, activation)
    return checkpoint.config, embedding_dtype(checkpoint.weights)


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


def names_option(flag: str, name: str, default: str, text: str) -> Callable[[CommandT], CommandT]:
    """An option that is a list of words, separated by commas; the command gets a tuple."""
    return click.option(
        flag, name, type=Names(), default=default, show_default=bool(default), help=text
    )


targets_option = names_option(
    "--target",
    "targets",
    ",".join(PROJECTIONS),
    "Modules that get an adapter, separated by commas.",
)
