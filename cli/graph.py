"""`bitgraph graph`: a training step as a picture, or as a file for other programs."""

from pathlib import Path

import click

from ..backends.vulkan.execution import execution_of
from ..backends.vulkan.footprint import footprint_for
from ..backends.vulkan.limits import KNOWN_LIMITS, Limits
from ..backends.vulkan.plan import make_plan
from ..graph.errors import BitgraphError
from ..graph.export.formats import FORMATS, export
from ..graph.export.view import make_view
from ..models.files import atomic_write
from ..models.training.options import TrainingOptions
from ..models.training.stages import STAGES, stage_graph
from ..passes.checkpoint.checkpoint import Checkpoint
from .options import (
    PATH,
    activation_option,
    device_option,
    from_defaults,
    geometry,
    geometry_options,
    targets_option,
)


@click.command()
@geometry_options
@click.option(
    "--tokens", type=click.IntRange(min=1), default=2048, show_default=True, help="Of a batch."
)
@click.option("--rank", type=int, help="Of adapters.", **from_defaults(TrainingOptions, "rank"))
@targets_option
@click.option(
    "--memory-budget",
    default="",
    metavar="SIZE",
    help="Of a step, as in 6GiB; what does not fit is computed again.",
)
@click.option("--stage", type=click.Choice(STAGES), default="joint", show_default=True)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="By default what FILE's suffix says."
)
@click.option("--open", "opened", multiple=True, help="Scope to show opened, as layers.0/mlp.")
@click.option("-o", "--out", type=PATH, required=True, metavar="FILE")
@click.option(
    "--limits",
    type=click.Choice(list(KNOWN_LIMITS)),
    help="Plan the schedule for such a GPU; default: any with Vulkan 1.3.",
)
@activation_option
@device_option
def graph(
    model: Path | None,
    preset: str | None,
    layers: int | None,
    tokens: int,
    rank: int,
    targets: tuple[str, ...],
    memory_budget: str,
    stage: str,
    form: str | None,
    opened: tuple[str, ...],
    out: Path,
    limits: str | None,
    activation: str | None,
    device: str | None,
) -> None:
    """Write the graph of a training step, at a stage of its compilation.

    html is a page to look around in, without a network; svg a picture, of the stage `schedule` one
    of memory over time. The schedule is planned for --device or --limits, else for the least
    that Vulkan 1.3 demands; no GPU is needed for that.
    """
    form = form or _format_of(out)
    options = TrainingOptions(rank=rank, targets=targets, memory_budget=memory_budget)
    config, embedding = geometry(model, preset, layers, activation)
    planning = _limits(limits, device)
    checkpoint = Checkpoint(memory_budget, footprint=footprint_for(planning))
    result = stage_graph(config, options, tokens, stage, embedding, checkpoint)
    execution = execution_of(make_plan(result, planning)) if stage == "schedule" else None
    data = export(make_view(result, stage, execution), form, opened)
    with atomic_write(out) as file:
        file.write(data)
    click.echo(f"{out}: {len(result.nodes):,} nodes, {len(data):,} bytes")


def _format_of(path: Path) -> str:
    suffix = path.suffix.removeprefix(".")
    form = {"txt": "text"}.get(suffix, suffix)
    if form not in FORMATS:
        raise BitgraphError(f"{path} does not tell a format; give --format ({', '.join(FORMATS)})")
    return form


def _limits(name: str | None, device: str | None) -> Limits:
    if device is None:
        return KNOWN_LIMITS[name or "default"]
    if name is not None:
        raise BitgraphError("--limits plans without a device; leave out --device")
    from ..backends.vulkan.info import planning_limits  # only where Vulkan is wanted: slow
    from ..backends.vulkan.query import select_device

    return planning_limits(select_device(device))
