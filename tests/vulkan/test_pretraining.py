"""Training of all weights on a Vulkan device against NumPy: gradients, ten steps, recomputation."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.backend import VulkanBackend
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.program import Backend
from bitgraph.graph.tensors import HostValue
from bitgraph.models.bitnet.forward import FREQUENCIES, loss_graph, rope_frequencies
from bitgraph.models.bitnet.presets import preset_config
from bitgraph.passes.manager import PassManager
from bitgraph.passes.pipeline import parse_pipeline
from tiny_model import random_batch
from vulkan_cases import kernel_device

CONFIG = replace(preset_config("tiny"), tie_word_embeddings=True)
LENGTHS = [50, 70, 120, 16]
TOKENS = sum(LENGTHS)
STEPS = 10
TOLERANCE = 1e-3
RATE = 3e-4


def graph_of(pipeline: str) -> Graph:
    return PassManager(parse_pipeline(pipeline)).run(loss_graph(CONFIG, TOKENS))


def beginning(graph: Graph) -> dict[str, HostValue]:
    """Weights that keep activations near one, and what states are before the first step."""
    rng = np.random.default_rng(0)
    values: dict[str, HostValue] = {FREQUENCIES: rope_frequencies(CONFIG)}
    for value in graph.inputs_of(Role.PARAM):
        drawn = rng.standard_normal(value.type.shape)
        is_gain = value.type.rank == 1
        values[value.name] = (1 + drawn / 10 if is_gain else drawn / 11).astype(np.float32)
    for value in graph.inputs_of(Role.STATE):
        start = 0 if value.name.endswith((".m", ".v")) else 1
        values[value.name] = np.full(value.type.shape, start, value.type.dtype.numpy)
    return values


def inputs_of(step: int) -> dict[str, npt.NDArray[np.generic]]:
    return random_batch(LENGTHS, CONFIG, seed=step, whole=True).inputs()


@pytest.mark.parametrize("fuse", ["", ",fuse"], ids=["plain", "fused"])
def test_smooth_gradients_of_all_weights(fuse: str) -> None:
    """Without quantizers, so that no code can fall to the other side."""
    graph = graph_of(f"masters,surrogate,grad,cse,dce{fuse}")
    persistent, inputs = beginning(graph), inputs_of(1)
    wanted = evaluate(graph, {**persistent, **inputs})
    device = kernel_device()
    backend = VulkanBackend(device)
    backend.load(persistent)
    given = backend.compile(graph).run(inputs)
    assert {f"{value.name}.grad" for value in graph.inputs_of(Role.PARAM)} <= set(given)
    errors = {}
    for name, want in wanted.items():
        first, second = np.asarray(given[name], np.float64), np.asarray(want, np.float64)
        errors[name] = np.linalg.norm(first - second) / np.linalg.norm(second)
    print(f"largest error: {max(errors.values()):.1e}")
    assert max(errors.values()) <= TOLERANCE, max(errors, key=lambda name: errors[name])
    assert device.messages == []


def losses(
    backend: Backend, graph: Graph, rate: float, start: dict[str, HostValue] | None = None
) -> npt.NDArray[np.float64]:
    """Of ten steps on two batches in turn."""
    backend.load(start or beginning(graph))
    program = backend.compile(graph)
    found = []
    for step in range(1, STEPS + 1):
        schedule = {"lr": np.array(rate, np.float32), "step": np.array(step, np.int32)}
        found.append(float(program.run({**inputs_of(step % 2), **schedule})["loss"]))
    return np.array(found)


RECOMPUTE = ",checkpoint{budget=7.5MiB}"
FINISHES = ["", ",fuse", f"{RECOMPUTE},fuse"]


def test_the_budget_makes_a_step_compute_values_again() -> None:
    whole, short = (graph_of(f"masters,grad,adamw,cse,dce{finish}") for finish in ("", RECOMPUTE))
    assert len(short.nodes) > len(whole.nodes)


@pytest.mark.parametrize("finish", FINISHES)
def test_ten_smooth_steps(finish: str) -> None:
    graph = graph_of(f"masters,surrogate,grad,adamw,cse,dce{finish}")
    device = kernel_device()
    given, wanted = losses(VulkanBackend(device), graph, 1e-3), losses(NumpyBackend(), graph, 1e-3)
    print(f"{wanted[0]:.3f} to {wanted[-1]:.3f}, {np.abs(given - wanted).max():.1e} apart")
    assert wanted[-1] < wanted[0] - 1
    np.testing.assert_allclose(given, wanted, rtol=0, atol=TOLERANCE)
    assert device.messages == []


@pytest.mark.parametrize("finish", FINISHES[1:])
def test_ten_steps(finish: str) -> None:
    """With quantizers a code that falls to the other side grows into more.

    So much that NumPy's losses move by as much where each weight is moved by its last bit. What a
    device gives may be off by three times that.
    """
    graph = graph_of(f"masters,grad,adamw,cse,dce{finish}")
    device = kernel_device()
    given, wanted = losses(VulkanBackend(device), graph, RATE), losses(NumpyBackend(), graph, RATE)
    noise = max(
        np.abs(losses(NumpyBackend(), graph, RATE, moved(beginning(graph), seed)) - wanted).max()
        for seed in range(3)
    )
    apart = np.abs(given - wanted)
    print(f"{wanted[0]:.3f} to {wanted[-1]:.3f}, {apart.max():.1e} apart, noise {noise:.1e}")
    assert wanted[-1] < wanted[0] - 0.5
    assert apart[0] <= TOLERANCE
    assert apart.max() <= 3 * noise
    assert device.messages == []


def moved(values: dict[str, HostValue], seed: int) -> dict[str, HostValue]:
    """Every weight one step up or down."""
    rng = np.random.default_rng(seed)
    there: dict[str, HostValue] = {}
    for name, value in values.items():
        assert isinstance(value, np.ndarray)
        sides = np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
        there[name] = np.nextafter(value, sides) if name.endswith(".weight") else value
    return there
