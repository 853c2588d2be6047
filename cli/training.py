"""What `bitgraph train` and `bitgraph pretrain` share: options, data, and going through a run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..backends.numpy.backend import NumpyBackend
from ..backends.vulkan.errors import DeviceLost
from ..graph.errors import BitgraphError
from ..graph.program import Backend
from ..graph.sizes import binary_size
from ..graph.tensors import HostValue
from ..models.bitnet.config import BitNetConfig
from ..models.bitnet.tokenizer import Tokenizer
from ..models.data.examples import Example
from ..models.data.ordering import split_off
from ..models.data.source import PreparedSet
from ..models.files import make_folder
from ..models.training.checkpoints import checkpoint_folders
from ..models.training.metrics import data_record
from ..models.training.options import OPTIMIZERS, TrainingOptions
from ..models.training.run import Run, RunOptions, forget, has_best, is_published, record_of
from ..models.training.schedule import SCHEDULES
from ..models.training.subjects import Subject
from ..models.training.trainer import Trainer
from .config_file import write_config
from .costs import measured_costs
from .data_options import DataOptions, describe_data, load_data
from .dumps import dumping
from .interrupt import interrupted
from .options import (
    PATH,
    CommandT,
    backend_option,
    device_option,
    from_defaults,
    make_backend,
    names_option,
)
from .training_view import TrainingView
from .watching import Log, leave_report, run_logs

_RUN_FIELDS = tuple(field.name for field in fields_of(RunOptions))


@dataclass(frozen=True)
class Request:
    """What a command is asked to do, whatever it trains.

    Attributes:
        source: the training data.
        eval_data, eval_split: what is held out: another file, or a share of the same.
        options: of the trainer.
        run_options: of the run.
        folder: of the run.
        out: where the result is left.
        resume, force: whether to go on with a run, or to replace it.
        tensorboard: whether to write an event file.
        dump_passes: folder for the stages of compilation.
        backend, device: where to compute.
    """

    source: DataOptions
    eval_data: Path | None
    eval_split: float
    options: TrainingOptions
    run_options: RunOptions
    folder: Path
    out: Path
    resume: bool
    force: bool
    tensorboard: bool
    dump_passes: Path | None
    backend: str
    device: str | None

    def __post_init__(self) -> None:
        if self.eval_data and self.eval_split:
            raise BitgraphError(
                "--eval-data and --eval-split are two ways to one thing; choose one"
            )


@dataclass(frozen=True, eq=False)
class Job:
    """What is trained.

    Attributes:
        model: name of the model in the metrics.
        config, weights: of the model; masters if all weights are trained.
        tokenizer: of the model.
        subject: which tensors are trained.
        describe: says what that is.
        samples: the records of answers, for the report.
    """

    model: str
    config: BitNetConfig
    weights: Mapping[str, HostValue]
    tokenizer: Tokenizer
    subject: Subject
    describe: Callable[[Trainer], str]
    samples: Callable[[Run, Backend], Iterator[dict[str, Any]]] = lambda run, backend: iter(())


def field_option(
    name: str, type: Any, text: str, options: Any = TrainingOptions
) -> Callable[[CommandT], CommandT]:
    """A field of `TrainingOptions`, or of others, as an option of a command."""
    flag = f"--{name.replace('_', '-')}"
    return click.option(flag, type=type, help=text, **from_defaults(options, name))


def training_options(defaults: Any = TrainingOptions) -> Callable[[CommandT], CommandT]:
    """Options of every command that trains; `request_of` takes what they give.

    Args:
        defaults: has the default values as attributes.
    """

    def option(name: str, type: Any, text: str) -> Callable[[CommandT], CommandT]:
        return field_option(name, type, text, defaults)

    def run_option(name: str, type: Any, text: str) -> Callable[[CommandT], CommandT]:
        return field_option(name, type, text, RunOptions)

    options = (
        click.option("--eval-data", type=PATH, help="Records whose loss is taken too."),
        click.option(
            "--eval-split",
            type=click.FloatRange(0, 1, max_open=True),
            default=0.0,
            help="Share of the training records to hold out for that instead.",
        ),
        option("lr", float, "Largest learning rate."),
        option("schedule", click.Choice(list(SCHEDULES)), "How it falls behind the warm-up."),
        option("warmup", float, "Steps over which it rises, or a share of all steps if below 1."),
        option("optimizer", click.Choice(OPTIMIZERS), "What updates the weights."),
        option("momentum", float, "Of sgd."),
        option("epochs", int, "Passes over the data."),
        option("max_steps", int, "Stop after so many steps; 0 for no limit."),
        option("batch_size", int, "Examples of a batch."),
        option("accumulate", int, "Batches a step."),
        click.option("--flat", "layout", flag_value="flat", help="Lay examples end to end."),
        click.option("--pack", "layout", flag_value="pack", help="Fill steps with what fits."),
        click.option("--pad", "layout", flag_value="pad", help="Pad to the longest of a step."),
        click.option(
            "--tokens-per-step",
            type=click.IntRange(min=0),
            help="Tokens of a step with --pack; batch-size times max-seq-len if not given.",
            default=defaults.tokens_per_step,
        ),
        option("seed", int, "Of what training begins with and the order of examples."),
        option("max_grad_norm", float, "Clip gradients to this global norm; 0 for no clipping."),
        option("weight_decay", float, "Of the optimizer."),
        names_option(
            "--no-decay", "no_decay", ",".join(defaults.no_decay), "Ends of names without decay."
        ),
        click.option(
            "--memory-budget",
            default="",
            metavar="SIZE",
            help="Device memory of a step, as in 6GiB; what does not fit is computed again. "
            "[default: what the device has]",
        ),
        run_option("eval_steps", int, "Evaluate every so many steps; 0 for only at both ends."),
        run_option("patience", int, "End after so many evaluations without a best one."),
        run_option("save_steps", int, "Checkpoint every so many steps; 0 for none."),
        run_option("save_minutes", float, "And after so many minutes; 0 for none."),
        run_option("keep", int, "Checkpoints that are kept."),
        click.option(
            "--layer-norms/--no-layer-norms",
            help="Measure the gradient norm of each layer in every step.",
            **from_defaults(TrainingOptions, "layer_norms"),
        ),
        click.option(
            "--tensorboard/--no-tensorboard",
            default=True,
            show_default=True,
            help="Write an event file for TensorBoard too.",
        ),
        click.option("--resume", is_flag=True, help="Go on from the last checkpoint."),
        click.option("--force", is_flag=True, help="Replace the result of another run."),
        click.option(
            "--dump-passes", type=PATH, help="Folder for texts, timings and a page of them."
        ),
        backend_option,
        device_option,
    )

    def decorate(command: CommandT) -> CommandT:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


def request_of(
    folder: Path, out: Path, fields: dict[str, Any], defaults: Any = TrainingOptions
) -> Request:
    """What the options of `training_options`, and perhaps more of `TrainingOptions`, ask for.

    Raises:
        BitgraphError: an option is out of its range.
    """
    source: DataOptions = fields.pop("source")
    layout = fields.pop("layout") or defaults.layout
    run_options = RunOptions(**{name: fields.pop(name) for name in _RUN_FIELDS})
    own = {field.name for field in fields_of(TrainingOptions)} & fields.keys()
    options = TrainingOptions(
        max_seq_len=source.max_seq_len, layout=layout, **{name: fields.pop(name) for name in own}
    )
    return Request(
        source=source, options=options, run_options=run_options, folder=folder, out=out, **fields
    )


def expect_free(request: Request, subject: Subject) -> None:
    """Nothing that a run made is written over unless that is asked for.

    Raises:
        BitgraphError: there is something, and it is not.
    """
    folder, out = request.folder, request.out
    has_result, has_checkpoint = is_published(out, subject), bool(checkpoint_folders(folder))
    has_some = has_result or has_best(folder, subject)
    noun = f"{'an' if subject.noun[0] in 'aeiou' else 'a'} {subject.noun}"
    if request.force or (request.resume and (has_checkpoint or not has_result)):
        return
    if request.resume:
        raise BitgraphError(
            f"{out} holds {noun} but no checkpoint to go on from; choose another --out, or "
            "--force to train from the beginning and replace it"
        )
    if has_checkpoint or has_some:
        place, holds = (out, noun) if has_result else (folder, noun if has_some else "checkpoints")
        raise BitgraphError(
            f"{place} already holds {holds}; choose another --out, --resume to go on or --force to "
            "replace it"
        )


@dataclass(frozen=True, eq=False)
class _Sets:
    """The examples of a run, and the files that they come from."""

    files: Mapping[DataOptions, PreparedSet]
    training: list[Example]
    held_out: list[Example]

    def describe(self, console: Console) -> None:
        for each, prepared in self.files.items():
            describe_data(console, each, prepared)
        if self.held_out:
            console.print(
                f"{len(self.training):,} examples to train on, "
                f"{len(self.held_out):,} to evaluate on"
            )

    def records(self) -> list[dict[str, Any]]:
        """What is known of the examples, for the metrics."""
        files = [*self.files.items()]
        roles = (("training", self.training, files[0]), ("held out", self.held_out, files[-1]))
        return [
            data_record(role, source.data, prepared, some)
            for role, some, (source, prepared) in roles
            if some
        ]


def _load_sets(console: Console, request: Request, tokenizer: Tokenizer) -> _Sets:
    source = request.source
    files = {source: load_data(console, source, tokenizer)}
    training, held_out = files[source].encoded.examples, list[Example]()
    if request.eval_data:
        other = replace(source, data=request.eval_data)
        files[other] = load_data(console, other, tokenizer)
        held_out = files[other].encoded.examples
    if request.eval_split:
        training, held_out = split_off(training, request.eval_split, request.options.seed)
    return _Sets(files, training, held_out)


def conduct(console: Console, request: Request, job: Job) -> None:
    """Train from the data to the report.

    Raises:
        BitgraphError: the data are wrong, the run cannot go on, or a file cannot be written.
    """
    options, folder = request.options, request.folder
    sets = _load_sets(console, request, job.tokenizer)
    computing = make_backend(request.backend, request.device)
    trainer, needed = _make_trainer(request, job, computing, sets.training)
    console.print(job.describe(trainer))
    sets.describe(console)
    if options.memory_budget or computing.memory is not None:
        console.print(str(trainer.report(sets.training)))
    if needed:
        arenas = trainer.arenas(sets.training)
        console.print(
            f"device memory needed: {binary_size(needed)}; values within a step: {arenas}"
        )
    run = Run(trainer, sets.training, sets.held_out, request.run_options, folder, request.out)
    if request.resume and not run.resume():
        console.print(f"{folder} has no checkpoint yet; training from the beginning")
    done = run.progress.step
    if request.force and not done:  # what another run left must not be taken for this one's
        forget(folder, job.subject)
    chosen = "numpy" if isinstance(computing, NumpyBackend) else "vulkan"
    write_config(folder, click.get_current_context(), {"backend": chosen})
    facts = {"model": job.model, **request.source.facts(), "eval_split": request.eval_split}
    start = {**facts, **asdict(options), **asdict(request.run_options), "backend": computing.name}
    try:
        with run_logs(folder, done, request.tensorboard) as log:
            log({"event": "resume" if done else "start", "step": done, **start})
            for record in sets.records():
                log({"step": done, **record})
            _follow(console, run, log, binary_size(needed) if needed else "")
            for record in job.samples(run, computing):
                log(record)
    finally:
        leave_report(console, folder)


def _make_trainer(
    request: Request, job: Job, computing: Backend, training: list[Example]
) -> tuple[Trainer, int]:
    """The trainer, and the bytes of the largest step on a device."""
    costs = measured_costs(computing)
    with dumping(request.dump_passes) as stages:
        on_stage = stages.add if request.dump_passes else None
        trainer = Trainer(
            job.config,
            job.weights,
            computing,
            request.options,
            on_stage,
            costs,
            subject=job.subject,
        )
        for folder in filter(None, (request.dump_passes, request.folder)):
            make_folder(folder)
        return trainer, trainer.device_bytes(training)


def _follow(console: Console, run: Run, log: Log, memory: str) -> None:
    """Go through a run, and leave a result and a word about it however it ends."""
    done, total, subject = run.progress.step, run.total, run.trainer.subject
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
    if has_best(run.folder, subject):
        best = f"loss {run.progress.best_loss:.4f} behind step {run.progress.best_step}"
        console.print(f"best {subject.noun} in {subject.best(run.folder)}: {best}")
    if stopped:
        console.print(f"stopped behind step {run.progress.step}; {_what_is_left(run)}")
        raise KeyboardInterrupt


def _say_saved(console: Console, run: Run) -> None:
    noun = run.trainer.subject.noun
    console.print(f"{noun} of step {run.trainer.steps_done} written to {run.out}")


def _what_is_left(run: Run) -> str:
    """How to go on, in words."""
    folders = checkpoint_folders(run.folder)
    if not folders:
        return "there is no checkpoint to go on from"
    return f"the same command with --resume goes on from {folders[-1]}"
