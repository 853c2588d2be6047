"""`bitgraph compile`: what a model becomes before it runs, stage by stage, without running it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..backends.numpy.backend import NumpyBackend
from ..backends.vulkan.footprint import footprint_for
from ..backends.vulkan.limits import KNOWN_LIMITS, Limits
from ..backends.vulkan.plan import Plan, make_plan
from ..backends.vulkan.schedule import Kind
from ..backends.vulkan.window import window_steps, with_window
from ..graph.analysis import PLAIN
from ..graph.errors import BitgraphError
from ..graph.ir import Graph
from ..graph.types import DType
from ..models.bitnet.cached import generation_passes
from ..models.bitnet.config import BitNetConfig
from ..models.bitnet.forward import decode_graph, loss_graph, prompt_graph
from ..models.files import make_folder
from ..models.training.options import TrainingOptions
from ..models.training.trainer import BUCKET
from ..passes.checkpoint.checkpoint import Checkpoint
from ..passes.manager import Pass, PassManager
from .dumps import PAGE, dumping, timing_table
from .options import (
    PATH,
    activation_option,
    backend_option,
    device_option,
    from_defaults,
    geometry,
    geometry_options,
    targets_option,
)

STAGES = ("train", "loss", "prompt", "decode")


@click.command("compile")
@geometry_options
@click.option(
    "--stage",
    type=click.Choice(STAGES),
    default="train",
    show_default=True,
    help="What to compile: a step of training, of evaluation, of feeding a prompt, of decoding.",
)
@click.option("--tokens", type=click.IntRange(min=1), help="Of a step; by default a full batch.")
@click.option("--batch-size", type=int, **from_defaults(TrainingOptions, "batch_size"))
@click.option("--max-seq-len", type=int, **from_defaults(TrainingOptions, "max_seq_len"))
@click.option("--context", type=click.IntRange(min=1), help="Slots of the key-value cache.")
@click.option("--rank", type=int, help="Of adapters.", **from_defaults(TrainingOptions, "rank"))
@click.option("--alpha", type=float, **from_defaults(TrainingOptions, "alpha"))
@targets_option
@click.option(
    "--memory-budget",
    default="",
    metavar="SIZE",
    help="Of a step of training, as in 6GiB; what does not fit is computed again.",
)
@click.option("--no-lora", is_flag=True, help="Without adapters; not for a step of training.")
@click.option("--dump-passes", type=PATH, help="Folder for texts, timings and a page of them.")
@click.option(
    "--limits",
    type=click.Choice(list(KNOWN_LIMITS)),
    help="Plan for such a GPU without having one; default: any with Vulkan 1.3.",
)
@activation_option
@backend_option
@device_option
def compile_(
    model: Path | None,
    preset: str | None,
    layers: int | None,
    stage: str,
    tokens: int | None,
    context: int | None,
    targets: tuple[str, ...],
    no_lora: bool,
    dump_passes: Path | None,
    limits: str | None,
    activation: str | None,
    backend: str,
    device: str | None,
    **fields: Any,
) -> None:
    """Compile a step of a model and say what that took and what the step will need.

    Nothing is run and no weights are loaded: of a --model only its geometry matters, and a --preset
    needs no file.
    """
    if limits is not None and (backend != "auto" or device is not None):
        raise BitgraphError("--limits plans without a device; leave out --backend and --device")
    if fields["memory_budget"] and stage != "train":
        raise BitgraphError("--memory-budget is for a step of training; leave it out")
    if no_lora and stage == "train":
        raise BitgraphError("a step of training needs adapters; leave out --no-lora")
    options = TrainingOptions(targets=targets, **fields)
    config, embedding = geometry(model, preset, layers, activation)
    planning = KNOWN_LIMITS[limits] if limits else _limits_of(backend, device)
    if tokens is None:
        tokens = -(-options.batch_size * options.max_seq_len // BUCKET) * BUCKET
    if dump_passes is not None:
        make_folder(dump_passes)
    with dumping(dump_passes) as stages:
        graph = _graph(stage, config, embedding, tokens, context)
        passes = _passes(stage, config, options, planning, no_lora)
        graph = PassManager(passes, stages.add).run(graph)
        schedule = _schedule(graph, planning)
        stages.add(len(passes) + 1, "schedule", schedule)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(timing_table(stages.done))
    if isinstance(schedule, Plan):
        _print_plan(console, schedule)
    if dump_passes is not None:
        console.print(f"open {dump_passes / PAGE} to compare the stages")


def _graph(
    stage: str, config: BitNetConfig, embedding: DType, tokens: int, context: int | None
) -> Graph:
    """The graph that the passes of a stage begin with."""
    longest = config.max_position_embeddings
    slots = longest if context is None else context
    if slots > longest:
        raise BitgraphError(f"--context is {slots}, but the model's context is {longest}")
    if stage == "prompt":
        return prompt_graph(config, min(tokens, slots), slots, embedding)
    if stage == "decode":
        return decode_graph(config, slots, embedding)
    graph = loss_graph(config, tokens, embedding)
    return replace(graph, outputs=(graph.output("loss"),)) if stage == "train" else graph


def _passes(
    stage: str, config: BitNetConfig, options: TrainingOptions, limits: Limits | None, no_lora: bool
) -> tuple[Pass, ...]:
    if stage == "train":
        footprint = footprint_for(limits) if limits else PLAIN
        return options.training_passes(Checkpoint(options.memory_budget, footprint=footprint))
    return generation_passes(config, None) if no_lora else options.evaluation_passes()


def _limits_of(backend: str, device: str | None) -> Limits | None:
    """Limits of the device that a run would take, None if it would run with NumPy."""
    if backend == "numpy":
        if device is not None:
            raise BitgraphError("--device chooses a Vulkan device; leave out --backend numpy")
        return None
    from ..backends.vulkan.info import planning_limits  # only where Vulkan is wanted: slow
    from ..backends.vulkan.query import select_device

    try:
        return planning_limits(select_device(device))
    except BitgraphError:
        if backend == "vulkan" or device is not None:
            raise
        return None


def _schedule(graph: Graph, limits: Limits | None) -> object:
    """What would be run, ready to be printed."""
    if limits is None:
        return NumpyBackend().compile(graph).schedule
    return with_window(make_plan(graph, limits), window_steps(graph), limits)


def _print_plan(console: Console, plan: Plan) -> None:
    schedule = plan.schedule
    sizes: Counter[Kind] = Counter()
    for buffer in schedule.buffers:
        sizes[buffer.kind] += buffer.size
    dispatches = len(schedule.dispatches)
    kinds = ", ".join(f"{kind} {size / 2**20:,.2f} MiB" for kind, size in sizes.most_common())
    console.print(f"\n{dispatches:,} dispatches, {len(schedule.commands) - dispatches:,} barriers")
    console.print(f"memory: {sizes.total() / 2**20:,.2f} MiB ({kinds})")
    console.print(f"arenas: {plan.arenas}")
