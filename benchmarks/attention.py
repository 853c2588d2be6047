"""Times the kernels of attention and its gradient, and how far their results are from NumPy's.

    python benchmarks/attention.py --preset 2b-4t --examples 4 --length 512

Gradients are rotated back, and examples lie end to end, as in a training step. Keys and values have
something in common, as those of models do: that is where rounding hurts.
"""

import statistics
from collections import defaultdict

import click
import numpy as np
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.query import select_device
from bitgraph.cli.bench.instruments import ProfilingDevice, WatchedBackend
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role, Value
from bitgraph.graph.tensors import Array, HostValue
from bitgraph.graph.types import tensor
from bitgraph.models.bitnet.config import BitNetConfig
from bitgraph.models.bitnet.presets import preset_config
from bitgraph.passes.fuse.fuse import Fuse

WARMUP = 10
"""Runs before the measured ones."""


def layer_graph(config: BitNetConfig, rows: int) -> Graph:
    """Attention as in a layer, with the gradient that its adapters get."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    width = config.head_dim
    b = GraphBuilder("attention")

    def given(name: str, *shape: int, dtype: str = "f32") -> Value:
        return b.add_input(name, tensor(dtype, *shape), Role.WEIGHT)

    q, dout = given("q", rows, heads, width), given("dout", rows, heads, width)
    k, v = given("k", rows, kv_heads, width), given("v", rows, kv_heads, width)
    first, last = given("first", rows, dtype="i32"), given("last", rows, dtype="i32")
    table = given("table", rows, width)
    out, lse = b.ops("attention", q, k, v, first, last)
    delta = b.op("row_dot", dout, out)
    dq, dk, dv = b.ops("attention_grad", q, k, v, lse, delta, dout, first, last)
    dq, dk = (b.op("rope", x, table, inverse=True) for x in (dq, dk))
    return Fuse()(b.finish((out, dq, dk, dv)))


def operand_values(graph: Graph, examples: int) -> dict[str, HostValue]:
    """Random operands of `layer_graph`."""
    rng = np.random.default_rng(0)
    types = {item.value.name: item.value.type for item in graph.inputs}
    drawn = {
        name: rng.standard_normal(type.shape, np.float32)
        for name, type in types.items()
        if name in ("q", "k", "v", "dout")
    }
    rows, width = types["table"].shape
    places = np.arange(rows, dtype=np.int32)
    length = rows // examples
    angles = rng.uniform(0, 2 * np.pi, (rows, width // 2))
    return {
        **drawn,
        "k": drawn["k"] + rng.standard_normal(width, np.float32),
        "v": drawn["v"] + np.float32(2),
        "dout": drawn["dout"] * np.float32(1e-5),
        "first": places // length * length,
        "last": places,
        "table": np.concatenate([np.cos(angles), np.sin(angles)], axis=1, dtype=np.float32),
    }


def error(given: HostValue, wanted: HostValue) -> float:
    """The norm of the difference over the norm."""
    first, second = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(first - second) / np.linalg.norm(second))


@click.command()
@click.option("--preset", default="2b-4t", show_default=True, help="Whose heads they are.")
@click.option("--examples", default=4, show_default=True)
@click.option("--length", default=512, show_default=True, help="Tokens of an example.")
@click.option("--runs", default=20, show_default=True, help="Measured runs; their medians count.")
@click.option("--device", help="Vulkan device, by index or name; a GPU if left out.")
def main(preset: str, examples: int, length: int, runs: int, device: str | None) -> None:
    """Measure attention and its gradient in one layer of a model."""
    config = preset_config(preset)
    graph = layer_graph(config, examples * length)
    values = operand_values(graph, examples)
    laps: dict[str, list[float]] = defaultdict(list)
    with ProfilingDevice(select_device(device)) as gpu:
        backend = WatchedBackend(gpu)
        backend.load(values)
        program = backend.compile(graph)
        results: dict[str, Array] = {}
        for number in range(WARMUP + runs):
            results = dict(program.run({}))
            schedule, recording = gpu.recorded[-1]
            for dispatch, (_, seconds) in zip(
                schedule.dispatches, recording.seconds(), strict=True
            ):
                if number >= WARMUP:
                    laps[dispatch.kernel].append(seconds)
        name = gpu.info.name
    layers = config.num_hidden_layers
    click.echo(f"{name}: {examples} x {length} tokens, milliseconds of {layers} layers")
    total = 0.0
    for kernel, times in laps.items():
        if kernel not in ("advance", "fetch", "store"):
            each = statistics.median(times) * layers * 1e3
            total += each
            click.echo(f"  {kernel:26} {each:8.2f}")
    click.echo(f"  {'together':26} {total:8.2f}")
    for output, wanted in zip(graph.outputs, evaluate(graph, values).values(), strict=True):
        click.echo(f"  %{output.name} is off by {error(results[output.name], wanted):.1e}")


if __name__ == "__main__":
    main()
