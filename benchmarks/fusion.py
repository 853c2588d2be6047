r"""What each fusion is worth: a training step and a decoded token, pattern by pattern.

    python benchmarks/fusion.py train --model 2b.gguf --batch 4 --length 512 --json fusion.json
    python benchmarks/fusion.py decode --model 2b.gguf --lora
    python benchmarks/fusion.py count --preset 2b-4t --tokens 2048

`count` plans for an NVIDIA H100 and needs no device. Each row of a table is the pass `fuse` with
one pattern alone, with all of them, or left out. Without --model, random weights of a preset serve.
See docs/benchmarks.md.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import click
import numpy as np
from bitgraph.backends.vulkan.limits import KNOWN_LIMITS
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.backends.vulkan.schedule import Schedule
from bitgraph.cli.bench.instruments import WatchedBackend, describe, opened, size_of
from bitgraph.cli.bench.measure import draw_prompt, make_generator, make_trainer
from bitgraph.cli.bench.random_models import random_model
from bitgraph.cli.bench.results import Result
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ir import Graph
from bitgraph.graph.ops.fused import FUSED
from bitgraph.models.bitnet import cached
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.forward import decode_graph, loss_graph
from bitgraph.models.bitnet.generate import Sampling
from bitgraph.models.bitnet.presets import preset_config
from bitgraph.models.training import options
from bitgraph.models.training.options import TrainingOptions
from bitgraph.passes.fuse.fuse import Fuse
from bitgraph.passes.fuse.patterns import PATTERNS
from bitgraph.passes.manager import Pass, PassManager

WARMUP = 3
"""Steps before the measured ones."""


@dataclass(frozen=True)
class Unfused:
    """Stands in for the pass `fuse` and does nothing."""

    name: ClassVar[str] = "fuse"

    def __call__(self, graph: Graph) -> Graph:
        """The graph as it is."""
        return graph


@contextmanager
def fusing(step: Pass) -> Iterator[None]:
    """Let programs be compiled with this in the place of the pass `fuse`."""
    with patch.object(options, "Fuse", lambda: step), patch.object(cached, "Fuse", lambda: step):
        yield


def rows() -> list[tuple[str, Pass]]:
    """What is measured, by name."""
    alone: list[tuple[str, Pass]] = [(p.name, Fuse(only=(p.name,))) for p in PATTERNS]
    return [("none", Unfused()), *alone, ("all", Fuse())]


def fused_nodes(graph: Graph) -> int:
    """How many nodes are fused ones."""
    return sum(node.op == FUSED for node in graph.nodes)


def training_losses(
    model: Path, backend: WatchedBackend, batch: int, length: int, steps: int
) -> tuple[float, list[float]]:
    """Median seconds of a step, and the losses, from the same adapters and examples each time."""
    trainer, examples = make_trainer(model, backend, batch, length, WARMUP + steps)
    reports = list(trainer.fit(examples))
    seconds = statistics.median(report.seconds for report in reports[WARMUP:])
    return seconds, [report.loss for report in reports]


def token_seconds(
    model: Path, backend: WatchedBackend, lora: bool, tokens: int
) -> tuple[float, list[float]]:
    """Seconds of a token behind a prompt of 64, and the tokens."""
    generator, rng = make_generator(model, backend, lora, 64, tokens)
    warm, prompt = (draw_prompt(rng, 64, load_checkpoint(model).config) for _ in range(2))
    for _ in generator.generate(warm, Sampling(), frozenset(), 32):
        pass
    stream = generator.generate(prompt, Sampling(), frozenset(), tokens)
    given = [next(stream)]
    begin = time.perf_counter()
    given += stream
    return (time.perf_counter() - begin) / (len(given) - 1), [float(token) for token in given]


def measure(
    device: str | None, run: Callable[[WatchedBackend], tuple[float, list[float]]]
) -> Iterator[Result]:
    """A row for each pattern: counts, seconds, and how far its numbers are from unfused ones."""
    with opened(device) as (gpu, _):
        backend = WatchedBackend(gpu)
        wanted: list[float] = []
        for name, step in rows():
            backend.programs.clear()
            with fusing(step):
                seconds, given = run(backend)
            wanted = wanted or given
            program = backend.programs[-1]
            yield {
                **describe(gpu),
                "pattern": name,
                "seconds": seconds,
                "off": float(np.abs(np.subtract(given, wanted)).max() / np.abs(wanted).max()),
                "fused_nodes": fused_nodes(program.graph),
                **size_of(program),
            }


def count_rows(graph: Graph) -> Iterator[Result]:
    """The rows of a graph that no device runs."""
    for name, step in rows():
        fused = step(graph)
        schedule: Schedule = make_plan(fused, KNOWN_LIMITS["h100"]).schedule
        dispatches = len(schedule.dispatches)
        yield {
            "pattern": name,
            "fused_nodes": fused_nodes(fused),
            "dispatches": dispatches,
            "barriers": len(schedule.commands) - dispatches,
        }


def table(results: Sequence[Result]) -> Iterator[str]:
    """Markdown."""
    timed = "seconds" in results[0]
    head = ["pattern", "fused nodes", "dispatches", "barriers"]
    head += ["ms", "speed against none", "largest difference"] if timed else []
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for r in results:
        cells = [r["pattern"], *(f"{r[k]:,}" for k in ("fused_nodes", "dispatches", "barriers"))]
        if timed:
            speed = results[0]["seconds"] / r["seconds"]
            cells += [f"{r['seconds'] * 1e3:.3f}", f"{speed:.3f}", f"{r['off']:.1e}"]
        yield f"| {' | '.join(cells)} |"


def report(results: Iterator[Result], target: Path | None) -> None:
    """Print the table as it grows to its end, and keep the rows."""
    done: list[Result] = []
    try:
        for result in results:
            done.append(result)
            click.echo(list(table([done[0], result]))[-1], err=True)
    except BitgraphError as error:
        raise click.ClickException(str(error)) from None
    click.echo("\n".join(table(done)))
    if target:
        target.write_text(json.dumps(done, indent=2) + "\n")


model_option = click.option("--model", type=click.Path(path_type=Path))
device_option = click.option("--device", help="Vulkan device, by index or name.")
preset_option = click.option("--preset", default="2b-4t", show_default=True)
json_option = click.option("--json", "target", type=click.Path(path_type=Path))


@click.group()
def cli() -> None:
    """Measure the fusions."""


@cli.command()
@model_option
@device_option
@preset_option
@json_option
@click.option("--batch", default=4, show_default=True, help="Sequences a step.")
@click.option("--length", default=512, show_default=True, help="Tokens of each.")
@click.option("--steps", default=12, show_default=True, help="Measured steps.")
def train(
    model: Path | None, device: str | None, preset: str, target: Path | None, batch: int,
    length: int, steps: int,
) -> None:  # fmt: skip
    """A training step: milliseconds are medians, differences those of the losses."""
    path = model or random_model(preset_config(preset))
    report(measure(device, lambda b: training_losses(path, b, batch, length, steps)), target)


@cli.command()
@model_option
@device_option
@preset_option
@json_option
@click.option("--lora", is_flag=True, help="With an adapter, unmerged.")
@click.option("--tokens", default=256, show_default=True, help="Tokens to generate.")
def decode(
    model: Path | None,
    device: str | None,
    preset: str,
    target: Path | None,
    lora: bool,
    tokens: int,
) -> None:
    """A decoded token; differences are those of the tokens' numbers."""
    path = model or random_model(preset_config(preset))
    report(measure(device, lambda b: token_seconds(path, b, lora, tokens)), target)


@cli.command()
@preset_option
@json_option
@click.option("--tokens", default=2048, show_default=True, help="Tokens of a step.")
@click.option("--decoding", is_flag=True, help="Count a decoded token instead.")
def count(preset: str, target: Path | None, tokens: int, decoding: bool) -> None:
    """Dispatches and barriers, planned for an H100."""
    config = preset_config(preset)
    graph = decode_graph(config, tokens) if decoding else loss_graph(config, tokens)
    chosen = TrainingOptions()
    with fusing(Unfused()):
        passes = chosen.evaluation_passes() if decoding else chosen.training_passes()
    report(count_rows(PassManager(passes).run(graph)), target)


if __name__ == "__main__":
    cli()
