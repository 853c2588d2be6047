"""`bitgraph devices`: what Vulkan offers on this machine."""

import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ..graph.sizes import binary_size

if TYPE_CHECKING:
    from ..backends.vulkan.info import DeviceInfo


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything, for programs.")
def devices(as_json: bool) -> None:
    """List Vulkan devices; choose one with --device by its number or a part of its name."""
    # Loading Vulkan takes time that no other command should spend.
    from ..backends.vulkan.query import list_devices

    found = list_devices()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(d) for d in found], default=sorted, indent=2))
        return
    for info in found:
        click.echo("\n".join(describe(info)))


def describe(info: "DeviceInfo") -> Iterator[str]:
    """The lines that tell people about a device."""
    limits, subgroup = info.limits, info.subgroup
    version = ".".join(map(str, info.version))
    heaps = (f"{binary_size(h.size)} {_owner(h.device_local)}" for h in info.heaps)
    sizes = "" if subgroup.minimum == subgroup.maximum else f" ({subgroup.minimum} to "
    sizes += f"{subgroup.maximum})" if sizes else ""
    yield f"{info.index}  {info.name} ({info.type}, Vulkan {version})"
    yield f"     driver      {info.vendor}: {info.driver}"
    yield f"     memory      {', '.join(heaps)}"
    yield (
        f"     limits      {binary_size(limits.storage_range)} a binding, "
        f"{binary_size(limits.allocation)} an allocation"
    )
    yield (
        f"     workgroup   {limits.invocations} invocations, "
        f"{binary_size(limits.shared_memory)} shared, subgroup {subgroup.size}{sizes}"
    )
    yield f"     arithmetic  {', '.join(_arithmetic(info)) or 'float32 only'}"
    yield f"     matrices    {', '.join(_matrices(info)) or 'no cooperative matrices'}"


def _owner(device_local: bool) -> str:
    return "of the device" if device_local else "of the host"


def _arithmetic(info: "DeviceInfo") -> list[str]:
    names = {
        "int8": info.features.shader_int8,
        "float16": info.features.shader_float16,
        "bfloat16": info.features.bfloat16,
        "8-bit storage": info.features.storage8,
        "16-bit storage": info.features.storage16,
        "integer dot product": info.features.integer_dot_product,
    }
    return [name for name, present in names.items() if present]


def _matrices(info: "DeviceInfo") -> list[str]:
    shapes = list(dict.fromkeys(map(str, info.matrices)))
    return shapes + ["NV cooperative matrix 2"] * info.features.cooperative_matrix2
