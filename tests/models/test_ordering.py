"""Which examples make up which step, and that packing them changes nothing but the speed."""

import dataclasses

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.data.batching import IGNORE, TokenBatch, make_batch
from bitgraph.models.data.examples import Example, prompted
from bitgraph.models.data.ordering import (
    Batching,
    Layout,
    epoch_order,
    plan_epoch,
    split_off,
)
from bitgraph.passes.cleanup import EliminateDeadCode
from bitgraph.passes.grad import Grad
from bitgraph.passes.manager import PassManager
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import (
    CONFIG,
    as_double,
    model_values,
    random_values,
    smooth_loss_graph,
)

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=60).map(np.array)


@st.composite
def a_batching(draw: st.DrawFn) -> Batching:
    layout: Layout = draw(st.sampled_from(["flat", "pack", "pad"]))
    return Batching(layout, draw(st.integers(1, 9)), draw(st.integers(40, 100)))


@given(LENGTHS, a_batching(), st.integers(0, 2**70), st.integers(0, 2**31), st.booleans())
def test_an_epoch_holds_every_example_once(
    lengths: np.ndarray, batching: Batching, seed: int, epoch: int, shuffle: bool
) -> None:
    plan = plan_epoch(lengths, batching, seed, epoch, shuffle)
    flat = [index for step in plan for index in step.tolist()]
    assert sorted(flat) == list(range(lengths.size))
    again = plan_epoch(lengths, batching, seed, epoch, shuffle)
    assert [step.tolist() for step in again] == [step.tolist() for step in plan]
    if batching.layout == "pack":
        assert all(lengths[step].sum() <= batching.tokens_per_step for step in plan)
    else:
        assert shuffle or flat == sorted(flat)
        assert {step.size for step in plan[:-1]} <= {batching.batch_size}


@given(LENGTHS, a_batching(), st.integers(1, 32))
def test_no_batch_is_larger_than_foreseen(
    lengths: np.ndarray, batching: Batching, multiple: int
) -> None:
    batching = dataclasses.replace(batching, multiple=multiple)
    examples = [prompted(np.ones(size, np.int32), 1) for size in lengths]
    sizes = [
        batching.batch([examples[index] for index in step]).tokens.size
        for step in plan_epoch(lengths, batching, 0, 0)
    ]
    assert max(sizes) <= batching.most_slots(lengths)
    assert all(size % multiple == 0 for size in sizes)
    if batching.layout == "pack":
        assert len(set(sizes)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_packed_steps_are_full(seed: int) -> None:
    """But for the last one, in an epoch of realistic lengths."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.lognormal(5, 0.6, 3000).astype(np.int64) + 2, 512)
    plan = plan_epoch(lengths, Batching("pack", tokens_per_step=2048), seed, 0)
    used = np.array([lengths[step].sum() for step in plan[:-1]])
    assert used.mean() > 0.99 * 2048
    assert used.min() > 0.9 * 2048
    # Steps are mixtures: their mean lengths do not drift along the epoch, long before short.
    means = np.array([lengths[step].mean() for step in plan[:-1]])
    assert abs(np.corrcoef(means, np.arange(means.size))[0, 1]) < 0.25


def test_packed_steps_hold_short_and_long_examples_alike() -> None:
    """Lengths tell kinds of examples apart; a step of one kind makes a poor gradient."""
    lengths = np.random.default_rng(0).integers(8, 40, 20000)
    plan = plan_epoch(lengths, Batching("pack", tokens_per_step=8192), 0, 0)
    means = np.array([lengths[step].mean() for step in plan[:-1]])
    assert means.std() < 2 * lengths.std() / np.sqrt(len(plan[0]))


@given(st.integers(0, 2**40), st.integers(0, 1000))
def test_order_depends_on_seed_and_epoch_alone(seed: int, epoch: int) -> None:
    orders = [epoch_order(50, *key).tolist() for key in [(seed, epoch)] * 2]
    assert orders[0] == orders[1]
    others = [(seed + 1, epoch), (seed, epoch + 1), (epoch, seed + 1001)]
    assert all(epoch_order(50, *key).tolist() != orders[0] for key in others)


def test_order_is_what_it_always_was() -> None:
    """A resumed run must go on in the same order under any NumPy."""
    assert epoch_order(8, seed=0, epoch=0).tolist() == [6, 3, 1, 4, 5, 2, 7, 0]
    assert epoch_order(8, seed=0, epoch=1).tolist() == [1, 3, 6, 2, 0, 7, 5, 4]


def test_order_is_uniform() -> None:
    """Each of 5 examples comes first about equally often."""
    starts = [epoch_order(5, seed=1, epoch=epoch)[0] for epoch in range(2000)]
    assert (np.abs(np.bincount(starts, minlength=5) - 400) < 90).all()


@pytest.mark.parametrize(
    ("batching", "seed", "problem"),
    [
        (Batching(batch_size=0), 0, "batch size is 0"),
        (Batching(), -1, "seed is -1"),
        (Batching("pack", tokens_per_step=9), 0, r"tokens-per-step is 9, .* has 10 tokens"),
    ],
)
def test_bad_settings(batching: Batching, seed: int, problem: str) -> None:
    with pytest.raises(BitgraphError, match=problem):
        plan_epoch(np.array([3, 10]), batching, seed, 0)


# Holding out


def numbered(records: list[int]) -> list[Example]:
    return [prompted(np.array([i, i], np.int32), 1, record) for i, record in enumerate(records)]


@given(st.lists(st.integers(1, 30), min_size=2, max_size=60), st.floats(0.05, 0.95))
def test_a_record_is_on_one_side(records: list[int], fraction: float) -> None:
    examples, count = numbered(sorted(records)), len(set(records))
    held = round(fraction * count)
    if held in (0, count):
        with pytest.raises(BitgraphError, match=f"leaves {held} to evaluate on"):
            split_off(examples, fraction, 0)
        return
    sides = split_off(examples, fraction, 0)
    first, second = ({example.record for example in side} for side in sides)
    assert not first & second
    assert (len(first), len(second)) == (count - held, held)
    assert sorted(e.tokens[0] for side in sides for e in side) == list(range(len(examples)))
    for side in sides:
        assert [e.tokens[0] for e in side] == sorted(e.tokens[0] for e in side)


def test_what_is_held_out_depends_on_the_seed_alone() -> None:
    examples = numbered(list(range(1, 101)))
    chosen = [
        [example.record for example in split_off(examples, 0.1, seed)[1]] for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 10


# Gradients


def examples_of(lengths: list[int]) -> list[Example]:
    rng = np.random.default_rng(3)
    return [
        prompted(rng.integers(0, CONFIG.vocab_size, n).astype(np.int32), max(1, n // 3))
        for n in lengths
    ]


def gradients(batch: TokenBatch) -> dict[str, np.ndarray]:
    """Of the sum of all tokens' losses, by adapter, on the smooth graph in float64."""
    graph = smooth_loss_graph(batch.tokens.size)
    graph = dataclasses.replace(graph, outputs=(graph.output("loss"),))
    graph = PassManager([Grad(), EliminateDeadCode()]).run(graph)
    values = as_double({**model_values(), **batch.inputs(), **random_values(graph)})
    values["weights"] = (batch.labels != IGNORE).astype(np.float64)
    results = evaluate(graph, values)
    return {name: value for name, value in results.items() if name.endswith(".grad")}


def relative(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    return max(
        float(np.abs(ours[name] - value).max() / np.abs(value).max())
        for name, value in theirs.items()
    )


@pytest.fixture(scope="module")
def alone() -> dict[str, np.ndarray]:
    """The gradient of some examples, each in a batch of its own."""
    each = [gradients(make_batch([example])) for example in examples_of(SIZES)]
    return {name: sum(part[name] for part in each) for name in each[0]}


SIZES = [5, 9, 3, 12, 7]


BATCHES = {
    "flat": make_batch(examples_of(SIZES), 8),
    "pack": Batching("pack", tokens_per_step=64).batch(examples_of(SIZES)),
    "pad": make_batch(examples_of(SIZES), 8, pad=True),
}


@pytest.mark.parametrize("layout", BATCHES)
def test_examples_of_a_step_do_not_see_each_other(
    layout: str, alone: dict[str, np.ndarray]
) -> None:
    """Packed, padded or alone: the gradients are equal."""
    found = gradients(BATCHES[layout])
    assert found.keys() == alone.keys()
    assert relative(found, alone) < 1e-5


@pytest.mark.parametrize("wrong", ["first", "positions", "labels"])
def test_a_leak_between_examples_would_be_seen(wrong: str, alone: dict[str, np.ndarray]) -> None:
    """Attention into the example before, positions that run on, a label of the next example."""
    batch = make_batch(examples_of(SIZES), 8)
    leaking = {
        "first": np.where(batch.first == SIZES[0], 0, batch.first).astype(np.int32),
        # Rotary embeddings see differences only: shift the end of one example.
        "positions": np.where(batch.positions > 8, batch.positions + 3, batch.positions),
        "labels": np.where(
            np.arange(batch.tokens.size) == SIZES[0] - 1, batch.tokens[SIZES[0]], batch.labels
        ),
    }[wrong]
    assert relative(gradients(dataclasses.replace(batch, **{wrong: leaking})), alone) > 1e-4
