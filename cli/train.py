"""`bitgraph train`: fine-tune a model with LoRA."""

from collections.abc import Callable
from dataclasses import asdict, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..backends.numpy.backend import NumpyBackend
from ..backends.vulkan.errors import DeviceLost
from ..graph.errors import BitgraphError
from ..graph.sizes import binary_size
from ..models.adapters.peft import CONFIG
from ..models.bitnet.checkpoint import Checkpoint, load_checkpoint
from ..models.bitnet.tokenizer import Tokenizer
from ..models.data.examples import Example
from ..models.data.ordering import Layout, split_off
from ..models.files import make_folder
from ..models.training.answers import Answerer
from ..models.training.checkpoints import checkpoint_folders
from ..models.training.metrics import data_record
from ..models.training.options import OPTIMIZERS, TrainingOptions
from ..models.training.run import BEST, Run, RunOptions, forget, has_best, record_of
from ..models.training.schedule import SCHEDULES
from ..models.training.trainer import Trainer
from .config_file import config_option, write_config
from .costs import measured_costs
from .data_options import DataOptions, data_options, describe_data, load_data
from .dumps import dumping
from .interrupt import interrupted
from .options import (
    PATH,
    CommandT,
    activation_option,
    backend_option,
    device_option,
    from_defaults,
    make_backend,
    model_option,
    names_option,
    targets_option,
)
from .training_view import TrainingView
from .watching import Log, leave_report, run_logs, sampled

RUN_FIELDS = tuple(field.name for field in fields_of(RunOptions))


def _option(
    name: str, type: Any, text: str, options: Any = TrainingOptions
) -> Callable[[CommandT], CommandT]:
    """A field of `TrainingOptions`, or of others, as an option of the command."""
    flag = f"--{name.replace('_', '-')}"
    return click.option(flag, type=type, help=text, **from_defaults(options, name))


@click.command()
@config_option
@model_option
@data_options
@click.option("--out", type=PATH, required=True, help="Folder for the adapter and the metrics.")
@click.option("--eval-data", type=PATH, help="Records whose loss is taken before and after.")
@click.option(
    "--eval-split",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="Share of the training records to hold out for that instead.",
)
@_option("rank", int, "Inner width of the adapters.")
@_option("alpha", float, "Adapters are scaled by alpha / rank.")
@targets_option
@names_option("--rank-pattern", "rank_pattern", "", "Other ranks, as in v_proj=8,o_proj=4.")
@names_option("--alpha-pattern", "alpha_pattern", "", "Other alphas, as in v_proj=16.")
@click.option("--rslora", is_flag=True, help="Scale adapters by alpha / sqrt(rank).")
@_option("dropout", float, "Share of the adapters' inputs that are dropped in training.")
@_option("lr", float, "Largest learning rate.")
@_option("schedule", click.Choice(list(SCHEDULES)), "How it falls behind the warm-up.")
@_option("warmup", float, "Steps over which it rises, or a share of all steps if below 1.")
@_option("optimizer", click.Choice(OPTIMIZERS), "What updates the adapters.")
@_option("momentum", float, "Of sgd.")
@_option("epochs", int, "Passes over the data.")
@_option("max_steps", int, "Stop after so many steps; 0 for no limit.")
@_option("batch_size", int, "Examples of a batch.")
@_option("accumulate", int, "Batches a step.")
@click.option("--pack", "layout", flag_value="pack", help="Fill steps with what fits instead.")
@click.option("--pad", "layout", flag_value="pad", help="Pad examples to the longest of a step.")
@click.option(
    "--tokens-per-step",
    type=click.IntRange(min=0),
    default=0,
    help="Tokens of a step with --pack; batch-size times max-seq-len if not given.",
)
@_option("seed", int, "Of the adapters' first values and the order of examples.")
@_option("max_grad_norm", float, "Clip gradients to this global norm; 0 for no clipping.")
@_option("weight_decay", float, "Of the optimizer.")
@names_option("--no-decay", "no_decay", "", "Ends of names without decay, as in lora_B.weight.")
@click.option(
    "--memory-budget",
    default="",
    metavar="SIZE",
    help="Device memory of a step, as in 6GiB; what does not fit is computed again. "
    "[default: what the device has]",
)
@_option("eval_steps", int, "Evaluate every so many steps; 0 for only at both ends.", RunOptions)
@_option("patience", int, "End after so many evaluations without a best one.", RunOptions)
@_option("save_steps", int, "Checkpoint every so many steps; 0 for none.", RunOptions)
@_option("save_minutes", float, "And after so many minutes; 0 for none.", RunOptions)
@_option("keep", int, "Checkpoints that are kept.", RunOptions)
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Prompts that are answered at the end, without and with the adapter, for the report.",
)
@click.option(
    "--layer-norms/--no-layer-norms",
    help="Measure the gradient norm of each layer in every step.",
    **from_defaults(TrainingOptions, "layer_norms"),
)
@click.option(
    "--tensorboard/--no-tensorboard",
    default=True,
    show_default=True,
    help="Write an event file for TensorBoard too.",
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@click.option("--force", is_flag=True, help="Replace an adapter that --out already holds.")
@click.option("--dump-passes", type=PATH, help="Folder for texts, timings and a page of them.")
@activation_option
@backend_option
@device_option
def train(
    model: Path,
    source: DataOptions,
    out: Path,
    eval_data: Path | None,
    eval_split: float,
    layout: Layout | None,
    samples: int,
    tensorboard: bool,
    resume: bool,
    force: bool,
    dump_passes: Path | None,
    activation: str | None,
    backend: str,
    device: str | None,
    **fields: Any,
) -> None:
    """Fine-tune a BitNet model with LoRA on instructions, conversations or plain text."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    run_options = RunOptions(**{name: fields.pop(name) for name in RUN_FIELDS})
    options = TrainingOptions(max_seq_len=source.max_seq_len, layout=layout or "flat", **fields)
    if eval_data and eval_split:
        raise BitgraphError("--eval-data and --eval-split are two ways to one thing; choose one")
    _expect_free(out, resume, force)
    checkpoint = load_checkpoint(model, activation)
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(model))
    sets = {source: load_data(console, source, tokenizer)}
    training, held_out = sets[source].encoded.examples, list[Example]()
    if eval_data:
        other = replace(source, data=eval_data)
        sets[other] = load_data(console, other, tokenizer)
        held_out = sets[other].encoded.examples
    if eval_split:
        training, held_out = split_off(training, eval_split, options.seed)
    computing = make_backend(backend, device)
    costs = measured_costs(computing)
    with dumping(dump_passes) as stages:
        on_stage = stages.add if dump_passes else None
        trainer = Trainer(
            checkpoint.config, checkpoint.weights, computing, options, on_stage, costs
        )
        for folder in filter(None, (dump_passes, out)):
            make_folder(folder)
        needed = trainer.device_bytes(training)
    _describe(console, checkpoint, trainer)
    for each, prepared in sets.items():
        describe_data(console, each, prepared)
    if held_out:
        console.print(f"{len(training):,} examples to train on, {len(held_out):,} to evaluate on")
    if options.memory_budget or computing.memory is not None:
        console.print(str(trainer.report(training)))
    if needed:
        arenas = trainer.arenas(training)
        console.print(
            f"device memory needed: {binary_size(needed)}; values within a step: {arenas}"
        )
    run = Run(trainer, training, held_out, run_options, out, str(model))
    if resume and not run.resume():
        console.print(f"{out} has no checkpoint yet; training from the beginning")
    chosen = "numpy" if isinstance(computing, NumpyBackend) else "vulkan"
    write_config(out, click.get_current_context(), {"backend": chosen})
    facts = {"model": str(model), **source.facts(), "eval_split": eval_split, **asdict(options)}
    start = {**facts, **asdict(run_options), "backend": computing.name}
    roles = (("training", training, sets[source]), ("held out", held_out, [*sets.values()][-1]))
    files = {"training": source.data, "held out": eval_data or source.data}
    data = [data_record(role, files[role], made, some) for role, some, made in roles if some]
    asked = Answerer(checkpoint.config, checkpoint.weights, computing, tokenizer)
    memory = binary_size(needed) if needed else ""
    done = run.progress.step
    try:
        with run_logs(out, done, tensorboard) as log:
            log({"event": "resume" if done else "start", "step": done, **start})
            for record in data:
                log({"step": done, **record})
            if force and not done:  # what another run left of its progress
                forget(out)
            _follow(console, run, log, memory)
            for record in sampled(console, run, asked, samples):
                log(record)
    finally:
        leave_report(console, out)


def _expect_free(out: Path, resume: bool, force: bool) -> None:
    """Nothing that a run made is written over unless that is asked for."""
    has_adapter, has_checkpoint = (out / CONFIG).exists(), bool(checkpoint_folders(out))
    holds = "an adapter" if has_adapter or has_best(out) else "checkpoints"
    if force or (resume and (has_checkpoint or not has_adapter)):
        return
    if resume:
        raise BitgraphError(
            f"{out} holds an adapter but no checkpoint to go on from; choose another --out, or "
            "--force to train from the beginning and replace it"
        )
    if has_adapter or has_checkpoint or has_best(out):
        raise BitgraphError(
            f"{out} already holds {holds}; choose another --out, --resume to go on or --force to "
            "replace it"
        )


def _follow(console: Console, run: Run, log: Log, memory: str) -> None:
    """Go through a run, and leave an adapter and a word about it however it ends."""
    done, total = run.progress.step, run.total
    if run.is_over:
        console.print(f"{run.folder} holds a run that ended behind step {done} of {total}")
    elif done:
        console.print(f"going on behind step {done} of {total}")
    try:
        with (
            TrainingView(console, total, done, memory) as view,
            interrupted() as stop,
        ):
            for event in run.events(stop):
                log(record_of(event))
                view.show(event)
            stopped = stop() and not run.is_over
    except DeviceLost as error:
        raise DeviceLost(f"{error}; {_what_is_left(run)}") from error
    except BaseException:
        if run.trainer.steps_done:
            run.save()
            _say_saved(console, run)
        raise
    _say_saved(console, run)
    if run.progress.step < total and not stopped:
        console.print(f"ended early, as {run.progress.stale} evaluations gave no smaller loss")
    if has_best(run.folder):
        best = f"loss {run.progress.best_loss:.4f} behind step {run.progress.best_step}"
        console.print(f"best adapter in {run.folder / BEST}: {best}")
    if stopped:
        console.print(f"stopped behind step {run.progress.step}; {_what_is_left(run)}")
        raise KeyboardInterrupt


def _say_saved(console: Console, run: Run) -> None:
    console.print(f"adapter of step {run.trainer.steps_done} written to {run.folder}")


def _what_is_left(run: Run) -> str:
    """How to go on, in words."""
    folders = checkpoint_folders(run.folder)
    if not folders:
        return "there is no checkpoint to go on from"
    return f"the same command with --resume goes on from {folders[-1]}"


def _describe(console: Console, checkpoint: Checkpoint, trainer: Trainer) -> None:
    """What is trained."""
    c, options = checkpoint.config, trainer.options
    console.print(
        f"{checkpoint.path}: {c.num_hidden_layers} layers, hidden {c.hidden_size}, "
        f"{c.num_parameters:,} parameters; training {trainer.num_parameters:,} in adapters of "
        f"rank {options.rank} on {', '.join(options.targets)}"
    )
