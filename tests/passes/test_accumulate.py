"""Several batches a step equal one large batch: gradients, params, and the states in between."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.ir import Graph
from bitgraph.graph.tensors import HostValue
from bitgraph.graph.types import GraphError
from bitgraph.models.bitnet.forward import loss_graph
from bitgraph.models.data.batching import TokenBatch, make_batch, share_weights
from bitgraph.models.data.examples import Example, prompted
from bitgraph.passes.accumulate import Accumulate, initial_sums
from bitgraph.passes.grad import Grad
from bitgraph.passes.lora import Lora
from bitgraph.passes.manager import Pass, PassManager
from bitgraph.passes.optimizer import AdamW, Optimizer, Sgd, initial_state
from bitgraph.passes.surrogate import Promote, Surrogate
from tiny_model import CONFIG, RANK, as_double, model_values, random_values

LENGTHS = ((5, 9), (3,), (12, 4, 7))
"""Batches of a step, and the lengths of their examples."""

OPTIMIZERS = pytest.mark.parametrize("optimizer", [AdamW(), Sgd()], ids=["adamw", "sgd"])


def batches_of(seed: int) -> list[list[Example]]:
    rng = np.random.default_rng(seed)
    return [
        [prompted(rng.integers(0, CONFIG.vocab_size, n).astype(np.int32), n // 3) for n in lengths]
        for lengths in LENGTHS
    ]


def smooth(batch: TokenBatch, *passes: Pass) -> Graph:
    """The loss of a batch without quantizers, with some passes behind Grad, in float64."""
    graph = loss_graph(CONFIG, batch.tokens.size)
    graph = replace(graph, outputs=(graph.output("loss"),))
    lora = Lora(rank=RANK, alpha=6.0)
    return PassManager((lora, Surrogate(), Grad(), *passes, Promote())).run(graph)


def run(graph: Graph, batch: TokenBatch, kept: dict[str, HostValue], step: int = 1) -> Graph:
    """Run a graph; what it leaves in the place of an input is kept for the next."""
    inputs = {**batch.inputs(), "lr": np.float64(0.01), "step": np.asarray(step, np.int32)}
    results = evaluate(graph, {**kept, **as_double(inputs)})
    for alias in graph.aliases:
        kept[alias.donated] = results.pop(alias.output)
    return results


def started(optimizer: Optimizer) -> dict[str, HostValue]:
    """Everything that persists, as before the first step."""
    graph = smooth(make_batch(batches_of(0)[0]))
    params = random_values(graph)
    state = {**initial_state(optimizer, params), **initial_sums(params)}
    return as_double({**model_values(), **params, **state})


def accumulated(examples: Sequence[Sequence[Example]]) -> tuple[TokenBatch, ...]:
    return share_weights([make_batch(some) for some in examples])


def whole(examples: Sequence[Sequence[Example]]) -> TokenBatch:
    return make_batch([example for some in examples for example in some])


def assert_near(got: HostValue, wanted: HostValue, name: str) -> None:
    assert isinstance(got, np.ndarray)
    scale = np.abs(np.asarray(wanted)).max()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * scale, err_msg=name)


def test_gradients_and_losses_add_up_to_those_of_the_large_batch() -> None:
    kept, examples = started(Sgd()), batches_of(1)
    large = run(smooth(whole(examples)), whole(examples), dict(kept))
    *some, end = accumulated(examples)
    losses = [run(smooth(b, Accumulate(last=False)), b, kept)["loss"] for b in some]
    results = run(smooth(end, Accumulate()), end, kept)
    assert sum(losses) + results["loss"] == pytest.approx(large["loss"], rel=1e-9)
    gradients = [name for name in large if name.endswith(".grad")]
    assert len(gradients) == 28
    for name in gradients:
        assert_near(results[name], large[name], name)
    for name, value in kept.items():
        assert not name.endswith(".sum") or not np.any(value), name


def two_steps(optimizer: Optimizer, last: Pass) -> tuple[dict[str, HostValue], list[str]]:
    """What persists behind two accumulated steps, and the names of the params."""
    kept = started(optimizer)
    for step in (1, 2):
        *some, end = accumulated(batches_of(step))
        for batch in some:
            run(smooth(batch, Accumulate(last=False)), batch, kept, step)
        run(smooth(end, last, optimizer), end, kept, step)
    return kept, [name for name in kept if ".lora_" in name and name.endswith(".weight")]


def two_large_steps(optimizer: Optimizer) -> dict[str, HostValue]:
    kept = started(optimizer)
    for step in (1, 2):
        batch = whole(batches_of(step))
        run(smooth(batch, optimizer), batch, kept, step)
    return kept


@OPTIMIZERS
def test_two_steps_are_those_of_large_batches(optimizer: Optimizer) -> None:
    got, names = two_steps(optimizer, Accumulate())
    wanted, before = two_large_steps(optimizer), started(optimizer)
    assert len(names) == 28
    for name in names:
        assert_near(got[name], wanted[name], name)
        assert np.any(np.asarray(got[name]) != before[name]), name
        for moment in optimizer.moments:
            assert_near(got[f"{name}.{moment}"], wanted[f"{name}.{moment}"], name)


class Forgetful(Accumulate):
    """Keeps the sums behind the last batch."""

    def __call__(self, graph: Graph) -> Graph:
        """The graph with its zeros replaced by what they should replace."""
        made = super().__call__(graph)
        nodes = tuple(
            replace(node, op="scale", attrs=(("factor", 1.0),)) if node.op == "full_like" else node
            for node in made.nodes
        )
        return replace(made, nodes=nodes)


@OPTIMIZERS
def test_sums_that_are_not_emptied_are_noticed(optimizer: Optimizer) -> None:
    got, names = two_steps(optimizer, Forgetful())
    wanted = two_large_steps(optimizer)
    for name in names:
        with pytest.raises(AssertionError):
            assert_near(got[name], wanted[name], name)


def test_a_graph_without_gradients_is_refused() -> None:
    with pytest.raises(GraphError, match="has no gradients; run the pass grad first"):
        Accumulate()(loss_graph(CONFIG, 5))
