"""Dropout and accumulation in whole models on a Vulkan device, against NumPy and large batches."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.backends.vulkan.backend import VulkanBackend
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.program import Backend
from bitgraph.graph.tensors import Array
from bitgraph.models.bitnet.forward import loss_graph
from bitgraph.models.data.batching import TokenBatch
from bitgraph.models.data.examples import Example, prompted
from bitgraph.models.training import trainer as training
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.trainer import Trainer
from bitgraph.passes.fuse.fuse import Fuse
from bitgraph.passes.grad import Grad
from bitgraph.passes.lora import DRAW, Lora
from bitgraph.passes.manager import Pass, PassManager
from bitgraph.passes.surrogate import Surrogate
from tiny_model import CONFIG, RANK, batch_values, model_values, random_batch, random_values
from vulkan_cases import kernel_device

LORA = Lora(rank=RANK, alpha=6.0, dropout=0.3, seed=11)
BATCH = random_batch([13, 24, 7])
BACKENDS: list[Callable[[], Backend]] = [NumpyBackend, lambda: VulkanBackend(kernel_device())]


def dropped_graph(*passes: Pass) -> Graph:
    graph = loss_graph(CONFIG, BATCH.tokens.size)
    graph = replace(graph, outputs=(graph.output("loss"),))
    return PassManager((LORA, Surrogate(), *passes)).run(graph)


def run(backend: Backend, graph: Graph, draw: int) -> dict[str, Array]:
    backend.load({**model_values(), **random_values(graph, (Role.PARAM,))})
    inputs = {**batch_values(BATCH), DRAW: np.array(draw, np.int32)}
    return backend.compile(graph).run(inputs)


def test_a_model_drops_the_same_on_both_backends() -> None:
    """Every element of every projection's input, and none is left out on one side alone."""
    graph = dropped_graph()
    drops = [node for node in graph.nodes if node.op == "dropout"]
    assert len(drops) == 7 * CONFIG.num_hidden_layers

    shown = {value.name: value for node in drops for value in (node.inputs[0], node.outputs[0])}
    graph = replace(graph, outputs=(graph.output("loss"), *shown.values()))
    ours, theirs = (run(make(), graph, draw=5) for make in BACKENDS)
    dropped = elements = 0
    for node in drops:
        x, y = node.inputs[0].name, node.outputs[0].name
        told = (ours[x] != 0) & (theirs[x] != 0)  # relu leaves zeros of its own
        assert np.array_equal((ours[y] == 0) & told, (theirs[y] == 0) & told), y
        dropped, elements = dropped + ((ours[y] == 0) & told).sum(), elements + told.sum()
    assert dropped / elements == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / elements))


def gradient_error(got: dict[str, Array], wanted: dict[str, Array]) -> float:
    names = [name for name in wanted if name.endswith(".grad")]
    assert len(names) == 14 * CONFIG.num_hidden_layers
    return max(float(np.abs(got[n] - wanted[n]).max() / np.abs(wanted[n]).max()) for n in names)


def test_gradients_behind_dropout_are_the_same_on_both_backends() -> None:
    """As fused as in training; masks of another draw would be seen."""
    graph = dropped_graph(Grad(), Fuse())
    ours, theirs = (run(make(), graph, draw=5) for make in BACKENDS)
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
    assert gradient_error(theirs, ours) <= 1e-4
    others = run(BACKENDS[1](), graph, draw=6)
    assert gradient_error(others, ours) > 1e-2


def examples() -> list[Example]:
    rng = np.random.default_rng(3)
    return [
        prompted(rng.integers(0, CONFIG.vocab_size, n).astype(np.int32), n // 3)
        for n in (5, 16, 9, 12, 3, 14, 7, 15, 4, 11, 6, 13)
    ]


def trained(backend: Backend, batch_size: int, accumulate: int) -> dict[str, Array]:
    """The change of the adapters by two steps of six examples."""
    options = TrainingOptions(
        rank=RANK, alpha=6.0, batch_size=batch_size, accumulate=accumulate, max_seq_len=16,
        optimizer="sgd", momentum=0.9, lr=0.05, warmup=0, schedule="constant", epochs=1,
    )  # fmt: skip
    trainer = Trainer(CONFIG, model_values(), backend, options, bucket=96)  # one size for all
    before = trainer.tensors()
    assert [report.step for report in trainer.fit(examples())] == [1, 2]
    after = trainer.tensors()
    return {name: after[name] - before[name] for name in after}


def difference(got: dict[str, Array], wanted: dict[str, Array]) -> float:
    return max(float(np.abs(got[n] - w).max() / np.abs(w).max()) for n, w in wanted.items())


@pytest.mark.parametrize("make", BACKENDS, ids=["numpy", "vulkan"])
def test_accumulated_steps_are_those_of_large_batches(
    make: Callable[[], Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = trained(make(), batch_size=6, accumulate=1)
    assert difference(trained(make(), batch_size=2, accumulate=3), large) <= 1e-3

    def means(batches: tuple[TokenBatch, ...]) -> tuple[TokenBatch, ...]:
        return tuple(replace(b, weights=b.weights / len(batches)) for b in batches)

    monkeypatch.setattr(training, "share_weights", means)  # the mean of means: a classic
    assert difference(trained(make(), batch_size=2, accumulate=3), large) > 1e-2
