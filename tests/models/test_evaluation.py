"""Losses example by example: each alone and unbatched must give the same."""

import math

import numpy as np
import pytest
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.models.adapters.lora import LoraAdapter, initial_tensors
from bitgraph.models.bitnet.config import projection_shapes
from bitgraph.models.bitnet.forward import logits_graph, loss_graph
from bitgraph.models.data.examples import prompted
from bitgraph.models.data.ordering import Batching
from bitgraph.models.training.evaluation import (
    Evaluator,
    ExampleLoss,
    example_losses,
    mean_loss,
    perplexity,
)
from bitgraph.passes.lora import Lora
from tiny_model import CONFIG, model_values


def examples(lengths):
    rng = np.random.default_rng(0)
    made = (rng.integers(0, CONFIG.vocab_size, n).astype(np.int32) for n in lengths)
    return [prompted(tokens, max(1, tokens.size // 3)) for tokens in made]


def loss_alone(example, adapter=None):
    """Minus the log-probabilities of its responses' tokens, from the logits, in float64."""
    graph, values = logits_graph(CONFIG, example.tokens.size), dict(model_values())
    if adapter is not None:
        graph = Lora(adapter.rank, adapter.alpha, tuple(adapter.modules))(graph)
        values |= adapter.tensors
    places = np.arange(example.tokens.size, dtype=np.int32)
    inputs = {"tokens": example.tokens, "positions": places, "first": 0 * places, "last": places}
    logits = evaluate(graph, {**values, **inputs})["logits"].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    trained = np.flatnonzero(example.trained)
    return -sum(log_p[k - 1, example.tokens[k]] for k in trained), trained.size


def made_adapter():
    tensors = initial_tensors(projection_shapes(CONFIG), 2, seed=0)
    rng = np.random.default_rng(1)
    tensors = {n: t + rng.standard_normal(t.shape, np.float32) for n, t in tensors.items()}
    return LoraAdapter(2, 4.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                                "down_proj"), tensors)  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_every_example_has_the_loss_that_it_has_alone(batch_size):
    given, adapter = examples([5, 9, 2, 12, 30, 3, 17]), made_adapter()
    evaluator = Evaluator(CONFIG, model_values(), NumpyBackend(threads=1), batch_size, bucket=8)
    for used in (None, adapter, None):
        found = list(evaluator.losses(given, used))
        assert len(found) == len(given)
        for loss, example in zip(found, given, strict=True):
            total, count = loss_alone(example, used)
            assert loss.supervised == count
            assert loss.total == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("layout", ["flat", "pad", "pack"])
def test_every_layout_of_a_batch_gives_the_same_losses(layout):
    given = examples([5, 9, 2, 12, 30, 3, 17])
    backend = NumpyBackend(threads=1)
    backend.load(model_values())
    batching = Batching(layout, batch_size=3, tokens_per_step=48, multiple=8)
    losses = example_losses(
        lambda tokens: backend.compile(loss_graph(CONFIG, tokens)), given, batching
    )
    found = dict(losses)
    assert sorted(found) == list(range(len(given)))
    for index, loss in found.items():
        total, count = loss_alone(given[index])
        assert loss.supervised == count
        assert loss.total == pytest.approx(total, rel=1e-4)


def test_the_mean_is_over_tokens():
    losses = [ExampleLoss(6.0, 3), ExampleLoss(0.5, 1), ExampleLoss(0.0, 0)]
    assert mean_loss(losses) == 6.5 / 4
    assert [loss.mean for loss in losses] == [2.0, 0.5, 0.0]
    assert mean_loss([]) == 0


def test_perplexity_of_any_loss():
    assert perplexity(0.0) == 1
    assert perplexity(2.0) == pytest.approx(math.e**2)
    assert perplexity(1e9) == math.inf
