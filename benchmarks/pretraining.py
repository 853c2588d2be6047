"""The time of a pretraining step on a GPU.

    python benchmarks/pretraining.py --preset nano --tokens 8192 --length 16

Weights and texts are random; the graph of a step is the one that `bitgraph pretrain` runs.
"""

import statistics
import time

import click
import numpy as np
from bitgraph.cli.bench.instruments import WatchedBackend, opened, size_of
from bitgraph.graph.ir import Graph, Role, Value
from bitgraph.graph.tensors import Array, HostValue
from bitgraph.models.bitnet.config import BitNetConfig
from bitgraph.models.bitnet.forward import FREQUENCIES, loss_graph, rope_frequencies
from bitgraph.models.bitnet.presets import preset_config
from bitgraph.models.data.batching import make_batch
from bitgraph.models.data.examples import prompted
from bitgraph.passes.manager import PassManager
from bitgraph.passes.pipeline import parse_pipeline

PIPELINE = "masters,grad,adamw,cse,dce,fuse"
WINDOW = 8
"""Steps that are handed over, and started, together."""


def persistent_values(config: BitNetConfig, graph: Graph) -> dict[str, HostValue]:
    """Random weights, and states as training begins with them."""
    rng = np.random.default_rng(0)
    values: dict[str, HostValue] = {FREQUENCIES: rope_frequencies(config)}
    for value in graph.inputs_of(Role.PARAM):
        values[value.name] = drawn(value, rng)
    for value in graph.inputs_of(Role.STATE):
        is_moment = value.name.endswith((".m", ".v"))
        values[value.name] = np.full(
            value.type.shape, 0 if is_moment else 1, value.type.dtype.numpy
        )
    return values


def drawn(value: Value, rng: np.random.Generator) -> Array:
    """Matrices of a small deviation, gains of one."""
    if len(value.type.shape) == 1:
        return np.ones(value.type.shape, np.float32)
    return 0.02 * rng.standard_normal(value.type.shape, np.float32)


def step_inputs(config: BitNetConfig, tokens: int, length: int, step: int) -> dict[str, Array]:
    """Random texts end to end, all of whose tokens are trained."""
    rng = np.random.default_rng(step)
    ids = rng.integers(0, config.vocab_size, (-(-tokens // length), length), np.int32)
    batch = make_batch([prompted(row, 1) for row in ids])
    schedule = {"lr": np.array(1e-3, np.float32), "step": np.array(step, np.int32)}
    return {**batch.inputs(), **schedule}


@click.command()
@click.option("--preset", default="nano", show_default=True)
@click.option("--tokens", default=8192, show_default=True, help="Of a step.")
@click.option("--length", default=512, show_default=True, help="Of a text; divides the tokens.")
@click.option("--steps", default=10, show_default=True, help="Measured windows of eight steps.")
@click.option("--device", help="Vulkan device, by index or name; a GPU if left out.")
def main(preset: str, tokens: int, length: int, steps: int, device: str | None) -> None:
    """Measure a step that trains all weights of a model."""
    config = preset_config(preset)
    graph = PassManager(parse_pipeline(PIPELINE)).run(loss_graph(config, tokens))
    values = persistent_values(config, graph)
    inputs = [step_inputs(config, tokens, length, step) for step in range(1, WINDOW + 1)]
    with opened(device) as (gpu, _):
        backend = WatchedBackend(gpu)
        backend.load(values)
        program = backend.compile(graph)
        laps: list[float] = []
        losses: list[float] = []
        for _ in range(steps + 1):
            program.stage(inputs)
            begin = time.perf_counter()
            results = program.start(WINDOW).results()
            laps.append((time.perf_counter() - begin) / WINDOW)
            losses.append(float(results[-1]["loss"]))
        seconds = statistics.median(laps[1:])
        click.echo(
            f"{gpu.info.name}: {seconds * 1e3:.2f} ms a step of {tokens:,} tokens, "
            f"{tokens / seconds:,.0f} tokens/s; {program.plan.arenas}; {size_of(program)}; "
            f"loss {losses[0]:.3f} to {losses[-1]:.3f}"
        )


if __name__ == "__main__":
    main()
