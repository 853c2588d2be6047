"""`bitgraph bench`: how fast jobs and kernels are, and how fast PyTorch is at the same."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from ...graph.errors import BitgraphError
from ...models.bitnet.checkpoint import load_checkpoint
from ...models.bitnet.config import BitNetConfig
from ...models.bitnet.presets import PRESETS, preset_config
from ..options import PATH, device_option
from .random_models import random_model
from .results import Result, spread
from .show import make_console, print_table, save, show_result
from .sides import Side, torch_geometry, torch_side

START = (sys.executable, "-m", "bitgraph.cli.bench.start")
"""What measures the time to the first step."""

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@click.group()
def bench() -> None:
    """Measure speed, memory and kernels; PyTorch beside it if asked.

    Every side of a comparison runs in a process of its own. Without --model, random weights of a
    --preset serve, kept in the cache folder.
    """


def _common(command: CommandT) -> CommandT:
    """Options of all jobs."""
    for option in (
        click.option("--json", "target", type=PATH, help="File for the results."),
        click.option(
            "--timeout", default=600.0, show_default=True, help="Seconds that a side may take."
        ),
        device_option,
        click.option("--layers", type=click.IntRange(min=1), help="With --preset: its layers."),
        click.option(
            "--preset", type=click.Choice(list(PRESETS)), default="2b-4t", show_default=True
        ),
        click.option("--model", type=PATH, help="BitNet model instead of random weights."),
    ):
        command = option(command)
    return command


def _sides(command: CommandT) -> CommandT:
    """Options of jobs that other sides do too."""
    for option in (
        click.option("--torch-python", default=sys.executable, help="Interpreter with PyTorch."),
        click.option(
            "--torch-device", default="cuda", show_default=True, help="Where PyTorch computes."
        ),
        click.option("--compile", "compiled", is_flag=True, help="PyTorch with torch.compile too."),
        click.option(
            "--against",
            type=click.Choice(["torch", "numpy"]),
            help="Measure PyTorch or the NumPy backend beside it.",
        ),
        click.option(
            "--backend",
            type=click.Choice(["vulkan", "numpy"]),
            default="vulkan",
            show_default=True,
        ),
    ):
        command = option(command)
    return command


adapter_option = click.option(
    "--adapter",
    type=click.Choice(["without", "with", "both"]),
    default="both",
    show_default=True,
    help="Whether an adapter of rank 16 is applied, unmerged.",
)
profile_option = click.option(
    "--profile", is_flag=True, help="A table of what each kernel takes, too."
)


@bench.command()
@_common
@_sides
@click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--length", type=click.IntRange(min=2), default=512, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--memory-budget", "budget", default="", help="Of a step, as in 6GiB.")
@profile_option
def train(batch: int, length: int, steps: int, budget: str, profile: bool, **common: Any) -> None:
    """LoRA training steps: rank 16 on all projections, AdamW, random tokens."""
    job = _Job(**common)
    shape = {"batch": batch, "length": length}
    arguments = {**shape, "steps": steps}
    sides = [
        *job.ours("train", {**arguments, "budget": budget}),
        *job.theirs("train", arguments),
    ]
    if profile:
        sides.append(job.profile("profile train", {**shape, "budget": budget}))
    job.run(f"train {batch} x {length}", sides)
    job.finish()


@bench.command()
@_common
@_sides
@adapter_option
@click.option("--prompt", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--tokens", type=click.IntRange(min=4), default=256, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@profile_option
def decode(
    adapter: str, prompt: int, tokens: int, rounds: int, profile: bool, **common: Any
) -> None:
    """Greedy decoding of one sequence, a token a step."""
    job = _Job(**common)
    for lora, name in _adapters(adapter):
        arguments = {"lora": lora, "prompt": prompt, "tokens": tokens, "rounds": rounds}
        sides = [*job.ours("decode", arguments), *job.theirs("decode", arguments)]
        if profile:
            sides.append(job.profile("profile decode", {"lora": lora, "prompt": prompt}))
        job.run(f"decode {name}", sides)
    job.finish()


@bench.command()
@_common
@_sides
@adapter_option
@click.option("--prompt", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True)
def prefill(adapter: str, prompt: int, rounds: int, **common: Any) -> None:
    """From a prompt to the token behind it."""
    job = _Job(**common)
    for lora, name in _adapters(adapter):
        arguments = {"lora": lora, "prompt": prompt, "rounds": rounds}
        sides = [*job.ours("prefill", arguments), *job.theirs("prefill", arguments)]
        job.run(f"prefill of {prompt} {name}", sides)
    job.finish()


@bench.command()
@_common
@click.option("--rows", type=click.IntRange(min=1), default=4096, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--only", default="", help="Only kernels whose name contains this.")
@click.option("--against", type=click.Choice(["torch"]), help="PyTorch's bf16 products beside it.")
@click.option("--torch-python", default=sys.executable, help="Interpreter with PyTorch.")
@click.option("--torch-device", default="cuda", show_default=True)
def kernels(rows: int, rounds: int, only: str, **common: Any) -> None:
    """Single products at the model's shapes, and their share of the roofline.

    Tables of all kernels of a step or a token are those of `bench train --profile` and `bench
    decode --profile`.
    """
    job = _Job(backend="vulkan", compiled=False, **common)
    ours = job.profile("kernels", {"rows": rows, "rounds": rounds, "only": only})
    c = job.config
    shapes = [
        [rows, c.intermediate_size, c.hidden_size],
        [rows, c.hidden_size, c.intermediate_size],
        [rows, c.hidden_size, c.hidden_size],
        [1, c.vocab_size, c.hidden_size],
        [1, c.intermediate_size, c.hidden_size],
    ]
    job.run("kernels", [ours, *job.theirs("products", {"shapes": shapes, "rounds": rounds}, False)])
    job.finish()


@bench.command()
@_common
@click.option("--backend", type=click.Choice(["vulkan", "numpy"]), default="vulkan")
@click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--length", type=click.IntRange(min=2), default=512, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
def start(batch: int, length: int, rounds: int, **common: Any) -> None:
    """The time from `bitgraph train` to its first step, caches warm, part by part.

    One round fills the caches first.
    """
    job = _Job(against=None, compiled=False, torch_python="", torch_device="", **common)
    (side,) = job.ours("start", {"batch": batch, "length": length})
    results = []
    for _ in range(rounds + 1):
        timed = replace(side, program=START, arguments={**side.arguments, "begin": time.time()})
        results.append(timed.run(job.timeout))
    job.add(_first_steps(results), f"first step of {batch} x {length}")
    job.finish()


def _first_steps(results: list[Result]) -> Result:
    """The rounds behind the first as one result: their medians."""
    failed = next((result for result in results if "error" in result), None)
    if failed is not None:
        return failed
    cold, *warm = results
    parts = {
        name: spread("seconds", [result["parts"].get(name, 0.0) for result in warm])["seconds"]
        for name in warm[0]["parts"]
    }
    return {
        "name": warm[0]["name"],
        "side": warm[0]["side"],
        **spread("first_step_seconds", [result["seconds"] for result in warm]),
        "first_round_seconds": cold["seconds"],
        "parts": parts,
    }


def _adapters(choice: str) -> Iterator[tuple[bool, str]]:
    """Whether there is an adapter, and how that is called."""
    if choice != "with":
        yield False, "without adapter"
    if choice != "without":
        yield True, "with adapter"


class _Job:
    """What a command measures: a model, its sides, and the results so far."""

    def __init__(
        self,
        model: Path | None,
        preset: str,
        layers: int | None,
        backend: str,
        device: str | None,
        against: str | None,
        compiled: bool,
        torch_python: str,
        torch_device: str,
        timeout: float,
        target: Path | None,
    ) -> None:
        """Find the model, or make it.

        Raises:
            BitgraphError: it cannot be read or written, or options do not go together.
        """
        if layers is not None and model is not None:
            raise BitgraphError("--layers changes a --preset; a --model has the layers it has")
        if compiled and against != "torch":
            raise BitgraphError("--compile is PyTorch's; add --against torch")
        if against == backend:
            raise BitgraphError("--against numpy compares with another --backend")
        self.console = make_console()
        self.timeout = timeout
        config = preset_config(preset, num_hidden_layers=layers)
        self._model = model or random_model(config)
        self.config: BitNetConfig = load_checkpoint(self._model).config
        self._backend, self._device = backend, device
        self._against, self._compiled = against, compiled
        self._torch = partial(torch_side, python=torch_python)
        self._torch_device = torch_device
        self._target = target
        self._results: list[Result] = []

    def ours(self, job: str, arguments: dict[str, Any]) -> Iterator[Side]:
        """The sides that this project is: a backend, and NumPy beside it if asked."""
        backends = [self._backend, *(["numpy"] if self._against == "numpy" else [])]
        for backend in backends:
            device = self._device if backend == "vulkan" else None
            where = {"model": str(self._model), "backend": backend, "device": device}
            yield Side(backend, job, {**where, **arguments})

    def theirs(self, job: str, arguments: dict[str, Any], geometry: bool = True) -> Iterator[Side]:
        """PyTorch's sides, if asked: as it is, and compiled."""
        if self._against != "torch":
            return
        shape = {"geometry": torch_geometry(self.config)} if geometry else {}
        given = {**arguments, **shape, "device": self._torch_device}
        yield self._torch("PyTorch", job, arguments=given)
        if self._compiled:
            yield self._torch("torch.compile", job, arguments={**given, "compiled": True})

    def profile(self, job: str, arguments: dict[str, Any]) -> Side:
        """A table of kernels.

        Raises:
            BitgraphError: the backend is not Vulkan.
        """
        if self._backend != "vulkan":
            raise BitgraphError("kernels are those of --backend vulkan")
        where = {"model": str(self._model), "device": self._device}
        return Side("kernels", job, {**where, **arguments})

    def run(self, job: str, sides: Iterable[Side]) -> None:
        """Measure the sides in turn; one that fails is reported and the next one runs."""
        for side in sides:
            self.add(side.run(self.timeout), job)

    def add(self, result: Result, job: str) -> None:
        """Keep a result and print it."""
        self._results.append({"job": job, **result})
        show_result(self.console, self._results[-1])
        if self._target:
            save(self._target, self._results)

    def finish(self) -> None:
        """Print what all sides did; status 1 if one of them failed."""
        print_table(self.console, self._results)
        if any("error" in result for result in self._results):
            sys.exit(1)
