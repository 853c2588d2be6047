"""The whole model on a Vulkan device against PyTorch's reference, on the smooth graph."""

import os

import numpy as np
import numpy.typing as npt
import pytest
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.backend import VulkanBackend
from bitgraph.graph.program import Backend
from bitgraph.models.bitnet import cached
from bitgraph.models.bitnet.checkpoint import Checkpoint
from bitgraph.models.bitnet.forward import graph_weights, logits_graph
from bitgraph.models.bitnet.generate import Generator, Sampling
from bitgraph.passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from bitgraph.passes.fuse.fuse import Fuse
from bitgraph.passes.surrogate import Surrogate
from reference import (
    Arrays,
    mini,
    reference,
    smooth_gradient_errors,
    smooth_logits_error,
    train_ten_steps,
)
from vulkan_cases import kernel_device

__all__ = ["mini", "reference"]

slow_on_cpu = pytest.mark.skipif(
    os.environ.get("BITGRAPH_TEST_DEVICE", "lavapipe") == "lavapipe"
    and not os.environ.get("BITGRAPH_SLOW_TESTS"),
    reason="takes minutes on lavapipe: set BITGRAPH_SLOW_TESTS=1 or a GPU in BITGRAPH_TEST_DEVICE",
)


def test_smooth_logits(reference: Arrays, mini: Checkpoint) -> None:
    device = kernel_device()
    error = smooth_logits_error(VulkanBackend(device), mini, reference)
    print(f"logits: {error:.1e}")
    assert error <= 1e-4
    assert device.messages == []


@slow_on_cpu
def test_smooth_gradients(reference: Arrays, mini: Checkpoint) -> None:
    device = kernel_device()
    loss_error, errors = smooth_gradient_errors(VulkanBackend(device), mini, reference)
    print(f"loss: {loss_error:.1e}, gradients: {max(errors.values()):.1e}")
    assert loss_error <= 1e-4
    assert max(errors.values()) <= 1e-3
    assert device.messages == []


@slow_on_cpu
def test_ten_training_steps(reference: Arrays, mini: Checkpoint) -> None:
    device = kernel_device()
    backend = VulkanBackend(device)
    submitted = device.submissions
    results = train_ten_steps(backend, mini, reference, "smooth")
    losses = np.array([float(result["loss"]) for result in results])
    error = np.abs(losses - reference["smooth|train_loss"]).max()
    print(f"training losses: {error:.1e}, {device.submissions - submitted} submissions")
    assert error <= 1e-3
    assert device.messages == []


PROMPT, TOKENS = 40, 24


def greedy(backend: Backend, mini: Checkpoint, prompt: list[int]) -> list[int]:
    """What a backend says behind a prompt, with the most probable token each time."""
    generator = Generator(mini.config, mini.weights, backend, context=PROMPT + TOKENS)
    return list(generator.generate(prompt, Sampling(), frozenset(), TOKENS))


def logits_behind(mini: Checkpoint, tokens: list[int], smooth: bool) -> npt.NDArray[np.float32]:
    """Logits of the token behind others, by the meaning of the graph."""
    graph = logits_graph(mini.config, len(tokens))
    graph = Surrogate()(graph) if smooth else graph
    places = np.arange(len(tokens), dtype=np.int32)
    inputs = {"tokens": np.array(tokens, np.int32), "positions": places, "first": 0 * places}
    values = {**graph_weights(mini.config, mini.weights), **inputs, "last": places}
    logits = evaluate(graph, values)["logits"]
    assert isinstance(logits, np.ndarray)
    return logits[-1]


@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "quantized"])
def test_greedy_text_is_that_of_numpy(
    reference: Arrays, mini: Checkpoint, monkeypatch: pytest.MonkeyPatch, smooth: bool
) -> None:
    """On the smooth graph to the end; else up to a choice that the recorded noise decides."""
    if smooth:
        passes = (Surrogate(), MergeCommonSubexpressions(), EliminateDeadCode(), Fuse())
        monkeypatch.setattr(cached, "generation_passes", lambda config, adapter: passes)
    prompt = reference["batch0|ids"][0, :PROMPT].astype(int).tolist()
    wanted = greedy(NumpyBackend(), mini, prompt)
    device = kernel_device()
    given = greedy(VulkanBackend(device), mini, prompt)
    assert device.messages == []
    assert len(given) == len(wanted) == TOKENS
    if given != wanted:
        assert not smooth
        same = next(k for k in range(TOKENS) if given[k] != wanted[k])
        logits = logits_behind(mini, prompt + wanted[:same], smooth)
        noise = float(reference["quant|noise|logits"]) * np.abs(logits).max()
        assert logits[wanted[same]] - logits[given[same]] <= noise
