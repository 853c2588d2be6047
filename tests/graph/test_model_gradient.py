"""Gradients, causality and packing of a whole BitNet with adapters."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.ir import Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.record import OpDef
from bitgraph.models.bitnet.config import PROJECTIONS, weight_shapes
from bitgraph.models.bitnet.forward import loss_graph
from bitgraph.passes.grad import Grad
from bitgraph.passes.lora import Lora
from bitgraph.passes.manager import PassManager
from bitgraph.passes.masters import Masters
from gradcheck import check_graph
from planted import MASTER_RULES, MODEL_RULES, Rule
from tiny_model import (
    CONFIG,
    as_double,
    batch_values,
    master_values,
    model_values,
    random_batch,
    random_values,
    smooth_loss_graph,
    smooth_master_graph,
    smooth_values,
)

LENGTHS = [5, 1, 7]

ADAPTERS = [
    f"layers.{layer}.{projection.parent}.{name}.lora_{half}.weight"
    for layer in range(CONFIG.num_hidden_layers)
    for name, projection in PROJECTIONS.items()
    for half in "AB"
]


def check_model(seed: int = 0) -> dict[str, np.ndarray]:
    batch = random_batch(LENGTHS, seed=seed)
    graph = smooth_loss_graph(len(batch.tokens))
    return check_graph(graph, smooth_values(graph, batch, seed), np.random.default_rng(seed), 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_of_every_adapter(seed: int) -> None:
    gradients = check_model(seed)
    assert sorted(gradients) == sorted(ADAPTERS)
    for gradient in gradients.values():
        assert np.count_nonzero(gradient) == gradient.size


@pytest.mark.parametrize("act", ["relu2", "silu"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_variants_of_the_architecture(act: str, tied: bool) -> None:
    config = replace(CONFIG, hidden_act=act, tie_word_embeddings=tied)
    batch = random_batch([4, 3])
    graph = smooth_loss_graph(7, config)
    values = smooth_values(graph, batch)
    if not tied:
        values["lm_head.weight"] = np.random.default_rng(2).standard_normal((48, 16))
    check_graph(graph, values, np.random.default_rng(0), 0)


def test_quantized_gradients_reach_every_adapter() -> None:
    """On the real graph too, where the quantizers pass gradients straight through."""
    batch = random_batch(LENGTHS)
    graph = PassManager([Lora(rank=3), Grad()]).run(loss_graph(CONFIG, len(batch.tokens)))
    values = {**model_values(), **batch_values(batch), **random_values(graph)}
    results = evaluate(graph, values)
    for name in ADAPTERS:
        gradient = results[f"{name}.grad"]
        assert isinstance(gradient, np.ndarray)
        assert gradient.dtype == np.float32
        assert np.count_nonzero(gradient) > 0.9 * gradient.size


def test_with_b_at_zero_only_b_has_a_gradient() -> None:
    """As LoRA begins: A gets none until B has moved."""
    batch = random_batch(LENGTHS)
    graph = PassManager([Lora(rank=3), Grad()]).run(loss_graph(CONFIG, len(batch.tokens)))
    drawn = random_values(graph)
    for name in ADAPTERS:
        if ".lora_B." in name:
            drawn[name] = np.zeros_like(drawn[name])
    results = evaluate(graph, {**model_values(), **batch_values(batch), **drawn})
    for name in ADAPTERS:
        assert np.any(np.asarray(results[f"{name}.grad"])) == (".lora_B." in name)


def check_masters(seed: int = 0, **changes: Any) -> dict[str, np.ndarray]:
    config = replace(CONFIG, **changes)
    batch = random_batch(LENGTHS, seed=seed)
    graph = smooth_master_graph(len(batch.tokens), config)
    values = {**master_values(config, seed), **batch_values(batch)}
    return check_graph(graph, as_double(values), np.random.default_rng(seed), 0)


@pytest.mark.parametrize("tied", [True, False])
def test_the_gradient_of_every_master(tied: bool) -> None:
    gradients = check_masters(tie_word_embeddings=tied)
    weights = weight_shapes(replace(CONFIG, tie_word_embeddings=tied))
    assert sorted(gradients) == sorted(weights)
    for name, gradient in gradients.items():
        assert gradient.shape == weights[name]
        looked_up = not tied and name == "embed_tokens.weight"  # only tokens of the batch
        assert looked_up or np.count_nonzero(gradient) == gradient.size


def test_quantized_gradients_reach_every_master() -> None:
    batch = random_batch(LENGTHS)
    graph = PassManager([Masters(), Grad()]).run(loss_graph(CONFIG, len(batch.tokens)))
    results = evaluate(graph, {**master_values(), **batch_values(batch)})
    for name in weight_shapes(CONFIG):
        gradient = results[f"{name}.grad"]
        assert isinstance(gradient, np.ndarray)
        assert gradient.dtype == np.float32
        assert np.count_nonzero(gradient) > 0.9 * gradient.size


# Planted errors in the composed model


@pytest.mark.parametrize(("what", "op"), MASTER_RULES)
def test_a_planted_error_is_caught_in_the_masters(
    what: str, op: OpDef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPS, op.name, op)
    with pytest.raises(AssertionError, match="is off by"):
        check_masters()


@pytest.mark.parametrize(("name", "rule"), MODEL_RULES)
def test_a_planted_error_is_caught_in_the_model(
    name: str, rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPS, name, replace(OPS[name], vjp=rule))
    with pytest.raises(AssertionError, match="is off by"):
        check_model()


# What a token may depend on


def losses(batch: dict[str, np.ndarray]) -> np.ndarray:
    graph = PassManager([Lora(rank=3)]).run(loss_graph(CONFIG, len(batch["tokens"])))
    nll = evaluate(graph, {**model_values(), **batch, **random_values(graph)})["nll"]
    assert isinstance(nll, np.ndarray)
    return nll


def test_a_later_token_never_changes_an_earlier_loss() -> None:
    batch = batch_values(random_batch([12]))
    batch["labels"] = np.roll(batch["tokens"], -1)
    before = losses(batch)
    for place in range(12):
        tokens = batch["tokens"].copy()
        tokens[place] = (tokens[place] + 7) % CONFIG.vocab_size
        after = losses({**batch, "tokens": tokens})
        assert after[:place].tolist() == before[:place].tolist()
        assert np.all(after[place:] != before[place:])


def test_examples_of_one_batch_do_not_influence_each_other() -> None:
    batch = batch_values(random_batch([4, 6, 3]))
    together = losses(batch)
    for begin, end in ((0, 4), (4, 10), (10, 13)):
        alone = {name: value[begin:end].copy() for name, value in batch.items()}
        alone["first"] -= begin
        alone["last"] -= begin
        np.testing.assert_allclose(losses(alone), together[begin:end], rtol=2e-5, atol=1e-6)
    tokens = batch["tokens"].copy()
    tokens[4:10] = (tokens[4:10] + 11) % CONFIG.vocab_size
    after = losses({**batch, "tokens": tokens})
    assert after[:4].tolist() == together[:4].tolist()
    assert after[10:].tolist() == together[10:].tolist()
    assert np.any(after[4:10] != together[4:10])


def test_padding_changes_nothing() -> None:
    batch, padded = random_batch([5, 6]), random_batch([5, 6], multiple=16)
    assert len(padded.tokens) == 16
    alone, together = losses(batch_values(batch)), losses(batch_values(padded))
    np.testing.assert_allclose(together[:11], alone, rtol=2e-5, atol=1e-6)
    assert not together[11:].any()


def test_the_loss_is_the_weighted_sum_of_its_rows() -> None:
    batch = random_batch([5, 6])
    graph = loss_graph(CONFIG, 11)
    results = evaluate(graph, {**model_values(), **batch_values(batch)})
    rows = np.asarray(results["nll"])
    labelled = batch.labels >= 0
    assert labelled.sum() == batch.supervised_tokens
    assert not rows[~labelled].any()
    assert np.asarray(results["loss"]) == pytest.approx(rows[labelled].mean(), rel=1e-6)
    assert {value.name for value in graph.inputs_of(Role.INPUT)} == set(batch_values(batch))
