"""`bitgraph graph`: a training step as a picture, or as a file for other programs."""

from pathlib import Path

import click

from ..graph.errors import BitgraphError
from ..graph.export.execution import Execution
from ..graph.export.formats import FORMATS, export
from ..graph.export.view import make_view
from ..graph.ir import Graph
from ..graph.types import DType
from ..models.bitnet.checkpoint import load_checkpoint
from ..models.bitnet.config import PROJECTIONS, BitNetConfig
from ..models.bitnet.forward import embedding_dtype
from ..models.bitnet.presets import PRESETS, preset_config
from ..models.files import atomic_write
from ..models.training.options import TrainingOptions
from ..models.training.stages import STAGES, stage_graph
from .options import PATH, activation_option, device_option, from_defaults


@click.command()
@click.option("--model", type=PATH, help="BitNet model, a GGUF file.")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="A known geometry instead.")
@click.option("--layers", type=click.IntRange(min=1), help="With --preset: transformer blocks.")
@click.option(
    "--tokens", type=click.IntRange(min=1), default=2048, show_default=True, help="Of a batch."
)
@click.option("--rank", type=int, help="Of adapters.", **from_defaults(TrainingOptions, "rank"))
@click.option(
    "--target",
    "targets",
    default=",".join(PROJECTIONS),
    show_default=True,
    help="Modules that get an adapter, separated by commas.",
)
@click.option("--stage", type=click.Choice(STAGES), default="joint", show_default=True)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="By default what FILE's suffix says."
)
@click.option("--open", "opened", multiple=True, help="Scope to show opened, as layers.0/mlp.")
@click.option("-o", "--out", type=PATH, required=True, metavar="FILE")
@activation_option
@device_option
def graph(
    model: Path | None,
    preset: str | None,
    layers: int | None,
    tokens: int,
    rank: int,
    targets: str,
    stage: str,
    form: str | None,
    opened: tuple[str, ...],
    out: Path,
    activation: str | None,
    device: str | None,
) -> None:
    """Write the graph of a training step, at a stage of its compilation.

    html is a page to look around in, without a network; svg a picture, of the stage `schedule` one
    of memory over time. The schedule is planned for --device, else for the least that Vulkan 1.3
    demands; no GPU is needed for that.
    """
    form = form or _format_of(out)
    names = tuple(part.strip() for part in targets.split(",") if part.strip())
    options = TrainingOptions(rank=rank, targets=names)
    config, embedding = _geometry(model, preset, layers, activation)
    result = stage_graph(config, options, tokens, stage, embedding)
    execution = _plan(result, device) if stage == "schedule" else None
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


def _geometry(
    model: Path | None, preset: str | None, layers: int | None, activation: str | None
) -> tuple[BitNetConfig, DType]:
    if (model is None) == (preset is None):
        raise BitgraphError("give either --model or --preset")
    if preset is not None:
        return preset_config(preset, num_hidden_layers=layers), DType.F16
    if layers is not None:
        raise BitgraphError("--layers changes a --preset; a --model has the layers it has")
    assert model is not None
    checkpoint = load_checkpoint(model, activation)
    return checkpoint.config, embedding_dtype(checkpoint.weights)


def _plan(graph: Graph, device: str | None) -> Execution:
    from ..backends.vulkan.execution import execution_of  # only where it is wanted
    from ..backends.vulkan.limits import Limits
    from ..backends.vulkan.plan import make_plan

    if device is None:
        return execution_of(make_plan(graph, Limits()))
    from ..backends.vulkan.info import planning_limits
    from ..backends.vulkan.query import select_device

    return execution_of(make_plan(graph, planning_limits(select_device(device))))
