"""Flat batches: labels, attention ranges, weights, order."""

from pathlib import Path

import numpy as np
import pytest
from bitgraph.models.data.batching import (
    IGNORE,
    TokenBatch,
    from_padded,
    make_batch,
)
from bitgraph.models.data.examples import Example, prompted
from hypothesis import given
from hypothesis import strategies as st

SHARED = Path(__file__).parents[2].parent / "shared"


@st.composite
def an_example(draw: st.DrawFn) -> Example:
    """Any of its tokens may be trained, as in a conversation of several turns."""
    tokens = draw(st.lists(st.integers(0, 99), min_size=2, max_size=9))
    size = len(tokens) - 1
    trained = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any))
    return Example(np.array(tokens, np.int32), np.array([False, *trained]))


EXAMPLES = st.lists(an_example(), min_size=1, max_size=6)
MULTIPLES = st.sampled_from([1, 2, 7, 32])


def arrays(batch: TokenBatch) -> list[list[float]]:
    fields = (batch.tokens, batch.positions, batch.first, batch.last, batch.labels, batch.weights)
    return [field.tolist() for field in fields]


def test_two_small_examples() -> None:
    examples = [
        prompted(np.array([5, 6, 7, 8], np.int32), 2),
        prompted(np.array([9, 4], np.int32), 1),
    ]
    batch = make_batch(examples, multiple=4)
    third = float(np.float32(1 / 3))
    assert arrays(batch) == [
        [5, 6, 7, 8, 9, 4, 0, 0],
        [0, 1, 2, 3, 0, 1, 0, 1],
        [0, 0, 0, 0, 4, 4, 6, 6],
        [0, 1, 2, 3, 4, 5, 6, 7],
        [-1, 7, 8, -1, 4, -1, -1, -1],
        [0, third, third, 0, third, 0, 0, 0],
    ]
    assert (batch.real_tokens, batch.supervised_tokens) == (6, 3)


@given(EXAMPLES, MULTIPLES)
def test_every_supervised_token_is_a_label_once(examples: list[Example], multiple: int) -> None:
    batch = make_batch(examples, multiple)
    expected = [example.tokens[example.trained] for example in examples]
    assert batch.labels[batch.labels != IGNORE].tolist() == np.concatenate(expected).tolist()
    assert batch.supervised_tokens == sum(part.size for part in expected)


@given(EXAMPLES, MULTIPLES)
def test_a_label_is_the_next_token_of_the_same_example(
    examples: list[Example], multiple: int
) -> None:
    batch = make_batch(examples, multiple)
    labelled = np.flatnonzero(batch.labels != IGNORE)
    assert (batch.labels[labelled] == batch.tokens[labelled + 1]).all()
    assert (batch.first[labelled] == batch.first[labelled + 1]).all()


@given(EXAMPLES, MULTIPLES)
def test_tokens_see_their_example_up_to_themselves(examples: list[Example], multiple: int) -> None:
    batch = make_batch(examples, multiple)
    slots = np.arange(batch.tokens.size)
    assert batch.tokens.size % multiple == 0
    assert batch.tokens.size - batch.real_tokens < multiple
    assert (batch.last == slots).all()
    assert (batch.positions == slots - batch.first).all()
    start = 0
    for example in examples:
        end = start + example.tokens.size
        assert (batch.first[start:end] == start).all()
        assert (batch.tokens[start:end] == example.tokens).all()
        start = end
    assert start == batch.real_tokens
    padding = slice(start, None)
    assert (batch.first[padding] == batch.real_tokens).all()
    assert not batch.tokens[padding].any()
    assert (batch.labels[padding] == IGNORE).all()


@given(EXAMPLES, MULTIPLES)
def test_weights_average_over_the_labels(examples: list[Example], multiple: int) -> None:
    batch = make_batch(examples, multiple)
    assert batch.weights.sum(dtype=np.float64) == pytest.approx(1, rel=1e-6)
    assert ((batch.weights > 0) == (batch.labels != IGNORE)).all()
    assert np.unique(batch.weights[batch.weights > 0]).size == 1


@given(EXAMPLES)
def test_dtypes(examples: list[Example]) -> None:
    batch = make_batch(examples, 4)
    integers = (batch.tokens, batch.positions, batch.first, batch.last, batch.labels)
    assert {array.dtype for array in integers} == {np.dtype(np.int32)}
    assert batch.weights.dtype == np.float32


@given(EXAMPLES.flatmap(st.permutations))
def test_the_order_of_examples_changes_no_example(examples: list[Example]) -> None:
    """Each example's own slots hold the same whatever stands before and after them."""
    whole = make_batch(examples, 8)
    start = 0
    for example in examples:
        alone = make_batch([example])
        part = slice(start, start + example.tokens.size)
        assert (whole.tokens[part] == alone.tokens).all()
        assert (whole.labels[part] == alone.labels).all()
        assert (whole.positions[part] == alone.positions).all()
        assert (whole.first[part] - start == alone.first).all()
        start = part.stop


@given(EXAMPLES)
def test_padded_rows_give_the_same_labels(examples: list[Example]) -> None:
    """A Hugging Face batch of the examples trains exactly the same tokens from the same ones."""
    width = max(example.tokens.size for example in examples)
    ids = np.full((len(examples), width), 177, np.int64)
    labels = np.full((len(examples), width), -100, np.int64)
    for row, example in enumerate(examples):
        ids[row, : example.tokens.size] = example.tokens
        labels[row, : example.tokens.size] = np.where(example.trained, example.tokens, -100)
    padded, flat = from_padded(ids, labels), make_batch(examples)
    own = make_batch(examples, pad=True)
    assert own.real_tokens == flat.real_tokens
    assert [*map(list, arrays(own)[1:])] == arrays(padded)[1:]
    assert (padded.tokens.reshape(ids.shape) == ids).all()
    assert (own.tokens.reshape(ids.shape) == np.where(ids == 177, 0, ids)).all()
    assert (padded.positions.reshape(ids.shape) == np.arange(width)).all()
    assert (padded.first == np.repeat(np.arange(len(examples)) * width, width)).all()
    assert (padded.last == np.arange(ids.size)).all()
    for name in ("tokens", "positions", "labels", "weights"):
        ours, theirs = (
            getattr(batch, name)[batch.labels != IGNORE].tolist() for batch in (flat, padded)
        )
        assert ours == theirs


def test_padded_ignores_a_label_without_a_predecessor() -> None:
    """Hugging Face shifts, so the label of a row's first token is never used."""
    batch = from_padded(np.array([[3, 4], [5, 6]]), np.array([[3, 4], [5, -100]]))
    assert batch.labels.tolist() == [4, IGNORE, IGNORE, IGNORE]
    assert batch.weights.tolist() == [1, 0, 0, 0]


def test_a_batch_without_labels_weighs_nothing() -> None:
    batch = from_padded(np.array([[3, 4]]), np.array([[-100, -100]]))
    assert batch.weights.tolist() == [0, 0]
    assert batch.supervised_tokens == 0


def test_reference_batches_keep_their_labels() -> None:
    path = SHARED / "reference" / "mini_ref.npz"
    if not path.exists():
        pytest.skip("needs ../shared/reference/mini_ref.npz (not part of the repository)")
    with np.load(path) as file:
        ids, labels = file["batch0|ids"], file["batch0|labels"]
    batch = from_padded(ids, labels)
    assert batch.real_tokens == ids.size
    assert batch.supervised_tokens == (labels[:, 1:] != -100).sum()
    labelled = batch.labels != IGNORE
    assert (batch.labels[labelled] == labels[:, 1:][labels[:, 1:] != -100]).all()
