r"""A long run: thousands of training steps and tokens, watched for growth, drift and messages.

    python benchmarks/long_run.py check --steps 2000 --tokens 50000
    python benchmarks/long_run.py check --backend numpy --steps 20 --tokens 200

Two runs with the same seed, each in a process of its own. Within each, memory of the host and of
the device behind a tenth of it is compared with that at its end; between the two, losses, adapters
and tokens must be the same to the last bit. With --validation the layers of the Vulkan SDK watch,
and a message of theirs is a failure. The model is a small one with random weights.

What is not bitwise equal by design: nothing within a device, driver and program; sums run in one
order. Another device, another driver, or other kernels (`fuse`, a memory budget that changes which
are chosen) may round differently.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from bitgraph.cli.bench.instruments import metered, rss
from bitgraph.cli.bench.measure import draw_prompt
from bitgraph.cli.bench.random_models import random_model
from bitgraph.cli.bench.results import Result
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.program import Backend
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.config import BitNetConfig
from bitgraph.models.bitnet.generate import Generator, Sampling
from bitgraph.models.bitnet.presets import PRESETS, preset_config
from bitgraph.models.data.examples import prompted
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.trainer import Trainer

SLACK = 4 << 20
"""Bytes of the host by which an allocator may grow without a leak."""

SAMPLES = 20
"""Moments at which memory is looked at."""

CONTEXT = 256
"""Tokens of a text; the next one begins anew."""


@click.group()
def cli() -> None:
    """A long run."""


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of both commands."""
    for option in (
        click.option("--validation", is_flag=True, help="Watched by the validation layers."),
        click.option("--device", help="Vulkan device, by index or name."),
        click.option("--backend", type=click.Choice(["vulkan", "numpy"]), default="vulkan"),
        click.option("--preset", type=click.Choice(list(PRESETS)), default="tiny"),
        click.option("--model", type=click.Path(path_type=Path), help="Instead of random weights."),
        click.option("--batch", default=2, show_default=True, help="Sequences of a step."),
        click.option("--length", default=64, show_default=True, help="Tokens of each."),
        click.option("--tokens", default=50_000, show_default=True, help="Tokens to decode."),
        click.option("--steps", default=2_000, show_default=True, help="Training steps."),
    ):
        command = option(command)
    return command


@cli.command()
@options
@click.option("--json", "target", type=click.Path(path_type=Path), help="Where to write both.")
def check(target: Path | None, **given: Any) -> None:
    """Run twice, compare, and say what is wrong; status 1 if anything is."""
    runs = [run_apart(given) for _ in range(2)]
    for number, run in enumerate(runs, 1):
        click.echo(f"run {number}: {summary(run)}")
    problems = [*differences(*runs)]
    for number, run in enumerate(runs, 1):
        problems += [f"run {number}: {problem}" for problem in growth(run)]
        problems += [f"run {number}: {message}" for message in run["messages"]]
    if target:
        target.write_text(json.dumps({"runs": runs, "problems": problems}, indent=1) + "\n")
    for problem in problems:
        click.echo(problem)
    if problems:
        sys.exit(1)
    click.echo("both runs are the same to the last bit, and neither grew")


@cli.command()
@options
def one(**given: Any) -> None:
    """Run once and print what was seen as JSON."""
    try:
        click.echo(json.dumps(run_once(**given)))
    except BitgraphError as error:
        raise click.ClickException(str(error)) from None


def run_apart(given: dict[str, Any]) -> Result:
    """A run in a process of its own."""
    arguments = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in given.items()
        if value not in (None, False)
    ]
    command = [sys.executable, __file__, "one", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def run_once(
    model: Path | None,
    preset: str,
    backend: str,
    device: str | None,
    validation: bool,
    batch: int,
    length: int,
    steps: int,
    tokens: int,
) -> Result:
    """Train and decode.

    Returns:
        For both: seconds, a digest of the results, and [done, host bytes, device bytes] now and
        then. "messages" are those of the validation layers.
    """
    if validation:
        os.environ["BITGRAPH_VALIDATION"] = "1"
    path = model or random_model(preset_config(preset))
    with metered(backend, device) as meter:
        trained = train(path, meter.backend, batch, length, steps)
        decoded = decode(path, meter.backend, tokens)
        gpu = getattr(meter.backend, "device", None)
        messages = list(gpu.messages) if gpu is not None else []
        return {**meter.describe(), "train": trained, "decode": decoded, "messages": messages}


def train(model: Path, backend: Backend, batch: int, length: int, steps: int) -> Result:
    """Train on random tokens."""
    checkpoint = load_checkpoint(model)
    chosen = TrainingOptions(batch_size=batch, max_seq_len=length, max_steps=steps)
    trainer = Trainer(checkpoint.config, checkpoint.weights, backend, chosen, bucket=1)
    ids = np.random.default_rng(0).integers(
        0, checkpoint.config.vocab_size, (steps * batch, length), np.int32
    )
    begin = time.perf_counter()
    losses, memory = [], []
    for report in trainer.fit([prompted(row, 1) for row in ids]):
        losses.append(report.loss)
        if report.step % max(1, steps // SAMPLES) == 0:
            memory.append([report.step, rss(), device_bytes(backend)])
    digest = hashlib.sha256(np.array(losses).tobytes())
    for name, tensor in sorted(trainer.state().items()):
        digest.update(name.encode() + tensor.tobytes())
    return {
        "seconds": time.perf_counter() - begin,
        "done": len(losses),
        "losses": [losses[0], losses[-1]],
        "digest": digest.hexdigest(),
        "memory": memory,
    }


def decode(model: Path, backend: Backend, tokens: int) -> Result:
    """Continue random prompts, every other one greedily."""
    checkpoint = load_checkpoint(model)
    generator = Generator(checkpoint.config, checkpoint.weights, backend, context=CONTEXT)
    begin = time.perf_counter()
    given: list[int] = []
    memory: list[list[int]] = []
    for text in texts(generator, checkpoint.config):
        given += text
        if len(given) >= (len(memory) + 1) * tokens // SAMPLES:
            memory.append([len(given), rss(), device_bytes(backend)])
        if len(given) >= tokens:
            break
    return {
        "seconds": time.perf_counter() - begin,
        "done": len(given),
        "digest": hashlib.sha256(np.array(given).tobytes()).hexdigest(),
        "memory": memory,
    }


def texts(generator: Generator, config: BitNetConfig) -> Iterator[list[int]]:
    """Texts without end."""
    rng = np.random.default_rng(1)
    number = 0
    while True:
        prompt = draw_prompt(rng, 16, config)
        sampling = Sampling(temperature=0.8 * (number % 2), top_p=0.9, seed=number)
        yield list(generator.generate(prompt, sampling, frozenset(), CONTEXT - 16))
        number += 1


def device_bytes(backend: Backend) -> int:
    """Device memory that is allocated now."""
    gpu = getattr(backend, "device", None)
    return sum(heap.allocated for heap in gpu.memory_report()) if gpu is not None else 0


def growth(run: Result) -> Iterator[str]:
    """What grew between a tenth of a part and its end."""
    for part in ("train", "decode"):
        memory = run[part]["memory"]
        if len(memory) < 3:
            continue
        first, last = memory[max(1, len(memory) // 10)], memory[-1]
        for name, before, after, slack in (
            ("host", first[1], last[1], SLACK),
            ("device", first[2], last[2], 0),
        ):
            if after > before + slack:
                grown = (after - before) / 2**20
                yield f"{part}: memory of the {name} grew by {grown:.1f} MiB"


def differences(first: Result, second: Result) -> Iterator[str]:
    """What two runs gave that is not the same."""
    for part in ("train", "decode"):
        if first[part]["digest"] != second[part]["digest"]:
            yield f"{part}: the two runs differ"


def summary(run: Result) -> str:
    """A run on one line."""
    parts = []
    for part, unit in (("train", "steps"), ("decode", "tokens")):
        r = run[part]
        host, device = ((r["memory"][-1][k] if r["memory"] else 0) / 2**20 for k in (1, 2))
        parts.append(
            f"{r['done']:,} {unit} in {r['seconds']:.0f} s, {host:.0f} MiB of the host, "
            f"{device:.0f} MiB of the device, digest {r['digest'][:12]}"
        )
    return f"{run['device']}: {'; '.join(parts)}; {len(run['messages'])} validation messages"


if __name__ == "__main__":
    cli()
