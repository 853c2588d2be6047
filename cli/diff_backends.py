"""`bitgraph diff-backends`: the first node whose result is wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.status import Status

from ..backends.divergence import (
    Divergence,
    Report,
    Runner,
    Way,
    compare,
    kind_of,
    on_backend,
    partners_of,
)
from ..backends.equivalence import relative_error, run_graph
from ..backends.numpy.backend import NumpyBackend
from ..backends.numpy.evaluate import apply
from ..backends.replay import GRAPH, VALUES, saved
from ..graph.analysis import all_values
from ..graph.errors import BitgraphError
from ..graph.ir import Graph, Node, Role
from ..graph.program import Backend
from ..graph.tensors import HostValue
from ..models.bitnet.checkpoint import load_checkpoint
from ..models.bitnet.tokenizer import Tokenizer
from ..models.data.encoding import EncodingOptions
from ..models.data.source import prepare
from ..models.files import atomic_write, make_folder, write_text
from ..models.training.options import TrainingOptions
from ..models.training.sample import sample_state, sample_step
from ..passes.manager import Pass, PassManager
from ..passes.pipeline import parse_pipeline
from .divergence_text import describe
from .options import (
    PATH,
    activation_option,
    backend_option,
    device_option,
    make_backend,
    model_option,
)

PROGRAM_TOLERANCE = 0.05
"""Allowed between a whole program and its nodes one by one, where an int8 code may flip."""


@click.command()
@model_option
@click.option("--data", type=PATH, required=True, help="Records; the first are used.")
@backend_option
@device_option
@click.option(
    "--against",
    type=click.Choice(["reference", "numpy", "vulkan"]),
    default="reference",
    show_default=True,
    help="What is taken to be right; the reference is each op's own NumPy meaning.",
)
@click.option("--passes", help="Passes that make the step, instead of those of a training run.")
@click.option("--pass", "changed_by", help="Compare the graphs before and after this pass instead.")
@click.option("--exact", is_flag=True, help="Allow no difference at all.")
@click.option("--batch-size", default=1, show_default=True, help="Records of the step.")
@click.option("--max-seq-len", default=128, show_default=True, help="Tokens a record is cut to.")
@click.option("--seed", default=0, show_default=True, help="Of the adapters and their moments.")
@click.option("--dump", type=PATH, help="Folder for the first wrong node and its values.")
@activation_option
def diff_backends(
    model: Path,
    data: Path,
    backend: str,
    device: str | None,
    against: str,
    passes: str | None,
    changed_by: str | None,
    exact: bool,
    batch_size: int,
    max_seq_len: int,
    seed: int,
    dump: Path | None,
    activation: str | None,
) -> None:
    """Run a training step node by node in two ways, and name the first node that differs.

    The step runs on two backends, or before and after a pass on one of them.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if changed_by is not None and against != "reference":
        raise BitgraphError("--pass compares on one backend; leave out --against")
    options = TrainingOptions(batch_size=batch_size, max_seq_len=max_seq_len, seed=seed)
    steps = options.training_passes() if passes is None else parse_pipeline(passes)
    graph, values = _step(model, data, activation, options)
    before, after = _graphs(graph, steps, changed_by)
    values |= sample_state(before, seed) | sample_state(after, seed)
    suspect = make_backend(backend, device)
    if dump is not None:
        make_folder(dump)
    with console.status("running") as status:
        run = _watched(on_backend(suspect), status)
        trusted = run if changed_by else _trusted(against, suspect)
        report = compare(Way(before, trusted), Way(after, run), values, exact)
        program = _program_errors(suspect, after, values, report.outputs)
    _print(console, report, before, after, program)
    if report.wrong is not None:
        _dump(console, dump, report.wrong, backend, device)
    _raise_if_wrong(report, program)


def _step(
    model: Path, data: Path, activation: str | None, options: TrainingOptions
) -> tuple[Graph, dict[str, HostValue]]:
    """The graph of the loss on the first records, and values for its inputs."""
    checkpoint = load_checkpoint(model, activation)
    context = checkpoint.config.max_position_embeddings
    if options.max_seq_len > context:
        raise BitgraphError(
            f"max-seq-len is {options.max_seq_len}, but the model's context is {context}; choose a "
            "smaller --max-seq-len"
        )
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(model))
    encoded = prepare(data, tokenizer, EncodingOptions(options.max_seq_len)).encoded
    examples = encoded.examples[: options.batch_size]
    return sample_step(checkpoint.config, checkpoint.weights, examples)


def _graphs(graph: Graph, steps: Sequence[Pass], changed_by: str | None) -> tuple[Graph, Graph]:
    """The graph of the step twice, or as it is before and after a pass.

    Raises:
        BitgraphError: there is no such pass among the steps.
    """
    stages: list[Graph] = []
    PassManager(steps, lambda number, name, stage: stages.append(stage)).run(graph)
    if changed_by is None:
        return stages[-1], stages[-1]
    names = [step.name for step in steps]
    if changed_by not in names:
        raise BitgraphError(
            f"--pass {changed_by} is not one of the step's passes {', '.join(names)}; name one of "
            "them, or others with --passes"
        )
    number = names.index(changed_by)
    return stages[number], stages[number + 1]


def _trusted(against: str, suspect: Backend) -> Runner:
    """What is taken to be right.

    Raises:
        BitgraphError: it is the backend that is in doubt.
    """
    if against == "reference":
        return apply
    if (against == "numpy") == isinstance(suspect, NumpyBackend):
        raise BitgraphError(f"both backends are {against}; choose another --backend or --against")
    return on_backend(make_backend(against, None))


def _watched(run: Runner, status: Status) -> Runner:
    """Shows which node runs."""

    def watched(node: Node, operands: tuple[HostValue, ...]) -> tuple[HostValue, ...]:
        status.update(f"running {node.op} of {node.scope}")
        return run(node, operands)

    return watched


def _program_errors(
    backend: Backend, graph: Graph, values: Mapping[str, HostValue], wanted: Mapping[str, HostValue]
) -> dict[str, float]:
    """How far the outputs of the whole program are from those of its nodes, run one by one."""
    inputs = {v.name: values[v.name] for v in graph.inputs_of(Role.INPUT)}
    held = {v.name: values[v.name] for v in graph.inputs_of(Role.WEIGHT, Role.PARAM, Role.STATE)}
    given = run_graph(backend, graph, held, inputs)
    return {name: relative_error(given[name], value) for name, value in wanted.items()}


def _print(
    console: Console, report: Report, before: Graph, after: Graph, program: Mapping[str, float]
) -> None:
    total = len(after.nodes)
    partners = partners_of(before, after)
    new = {value.name for value in all_values(after)} - partners.keys()
    console.print(f"{total} nodes, {report.compared} values compared")
    if report.wrong is None:
        console.print("no node is wrong on equal operands")
    else:
        console.print("the first node that is wrong on equal operands:")
        console.print("\n".join(describe(report.wrong, total, new)))
        counts = (f"{count} {kind}" for kind, count in report.wrong_ops.items())
        console.print(f"wrong in all: {', '.join(counts)}")
    if report.drifted is None:
        console.print("no value drifts away as errors add up")
    elif report.wrong is None or report.drifted.position != report.wrong.position:
        console.print("the first node that drifts away as errors add up, alone no mistake:")
        console.print("\n".join(describe(report.drifted, total, new)))
    name, error = max(program.items(), key=lambda item: item[1])
    console.print(
        f"the whole program against its nodes one by one: off by {error:.1e} at most (%{name})"
    )


def _dump(
    console: Console, folder: Path | None, wrong: Divergence, backend: str, device: str | None
) -> None:
    """Write the node and its values, and say how to run it again."""
    if folder is None:
        return
    text, values = saved(wrong)
    write_text(folder / GRAPH, text)
    with atomic_write(folder / VALUES) as file:
        file.write(values)
    console.print(f"the node and its values lie in {folder}; to run it again:")
    call = f"replay({str(folder)!r}, {backend!r}, {device!r})"
    console.print(f'  python -c "from bitgraph.cli.replay import replay; {call}"')


def _raise_if_wrong(report: Report, program: Mapping[str, float]) -> None:
    """Raise a BitgraphError if a node or the whole program is wrong."""
    if report.wrong is not None:
        results = ", ".join(str(value) for value in report.wrong.node.outputs)
        count, kind = sum(report.wrong_ops.values()), kind_of(report.wrong.node)
        raise BitgraphError(
            f"wrong nodes: {count}, the first is {kind}, which makes {results}; "
            "mend its kernel, or the pass that made it"
        )
    for name, error in program.items():
        if not error <= PROGRAM_TOLERANCE:
            raise BitgraphError(
                f"every node is right, but %{name} of the whole program is off by {error:.1e}; "
                "look for a missing barrier or overlapping memory in its schedule"
            )
