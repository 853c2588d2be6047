"""`bitgraph compile`: what a model becomes before it runs, stage by stage, without running it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..backends.numpy.backend import NumpyBackend
from ..backends.vulkan.limits import KNOWN_LIMITS, Limits
from ..backends.vulkan.plan import Plan, make_plan
from ..backends.vulkan.window import window_steps, with_window
from ..graph.errors import BitgraphError
from ..graph.ir import Graph
from ..graph.types import DType
from ..models.bitnet.checkpoint import load_checkpoint
from ..models.bitnet.config import PROJECTIONS, BitNetConfig
from ..models.bitnet.forward import decode_graph, embedding_dtype, loss_graph, prompt_graph
from ..models.bitnet.presets import PRESETS, preset_config
from ..models.files import make_folder
from ..models.training.options import TrainingOptions
from ..models.training.trainer import BUCKET
from ..passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from ..passes.manager import Pass, PassManager
from .dumps import PAGE, dumping, timing_table
from .options import PATH, activation_option, backend_option, device_option, from_defaults

STAGES = ("train", "loss", "prompt", "decode")


@click.command("compile")
@click.option("--model", type=PATH, help="BitNet model, a GGUF file with I2_S weights.")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="A known geometry instead.")
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
@click.option(
    "--target",
    "targets",
    default=",".join(PROJECTIONS),
    show_default=True,
    help="Modules that get an adapter, separated by commas.",
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
    stage: str,
    tokens: int | None,
    context: int | None,
    targets: str,
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
    if no_lora and stage == "train":
        raise BitgraphError("a step of training needs adapters; leave out --no-lora")
    names = tuple(part.strip() for part in targets.split(",") if part.strip())
    options = TrainingOptions(targets=names, **fields)
    config, embedding = _geometry(model, preset, activation)
    planning = KNOWN_LIMITS[limits] if limits else _limits_of(backend, device)
    if tokens is None:
        tokens = -(-options.batch_size * options.max_seq_len // BUCKET) * BUCKET
    if dump_passes is not None:
        make_folder(dump_passes)
    with dumping(dump_passes) as stages:
        graph = _graph(stage, config, embedding, tokens, context)
        passes = _passes(stage, options, no_lora)
        graph = PassManager(passes, stages.add).run(graph)
        schedule = _schedule(graph, planning)
        stages.add(len(passes) + 1, "schedule", schedule)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(timing_table(stages.done))
    if isinstance(schedule, Plan):
        _print_plan(console, schedule)
    if dump_passes is not None:
        console.print(f"open {dump_passes / PAGE} to compare the stages")


def _geometry(
    model: Path | None, preset: str | None, activation: str | None
) -> tuple[BitNetConfig, DType]:
    """The configuration and the element type of the embedding."""
    if (model is None) == (preset is None):
        raise BitgraphError("give either --model or --preset")
    if model is None:
        assert preset is not None
        return preset_config(preset), DType.F16
    checkpoint = load_checkpoint(model, activation)
    return checkpoint.config, embedding_dtype(checkpoint.weights)


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


def _passes(stage: str, options: TrainingOptions, no_lora: bool) -> tuple[Pass, ...]:
    if stage == "train":
        return options.training_passes()
    if no_lora:
        return (MergeCommonSubexpressions(), EliminateDeadCode())
    return options.evaluation_passes()


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
    sizes: Counter[str] = Counter()
    for buffer in plan.schedule.buffers:
        sizes[buffer.kind] += buffer.size
    dispatches = plan.schedule.dispatches
    barriers = len(plan.schedule.commands) - len(dispatches)
    console.print(f"\n{len(dispatches):,} dispatches, {barriers:,} barriers")
    console.print(
        "memory: " + ", ".join(f"{kind} {size / 2**20:,.2f} MiB" for kind, size in sizes.items())
    )
    console.print(f"arenas: {plan.arenas}")
