"""Prompts answered together: the answers of a generator that has each alone."""

from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.adapters.lora import LoraAdapter, initial_tensors
from bitgraph.models.bitnet.batch import BatchGenerator
from bitgraph.models.bitnet.config import PROJECTIONS, projection_shapes
from bitgraph.models.bitnet.generate import Generator, Sampling
from tiny_model import CONFIG, model_values

WEIGHTS = model_values()
NONE = frozenset[int]()
LENGTHS = (6, 1, 17, 3, 9, 2, 30, 5, 1, 12)
DRAWN = Sampling(temperature=1.2, top_k=20, top_p=0.95, min_p=0.01, seed=11)


def prompts(lengths=LENGTHS, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, CONFIG.vocab_size, length).tolist() for length in lengths]


def adapter(rank=3):
    rng = np.random.default_rng(5)
    tensors = {
        name: (tensor + rng.standard_normal(tensor.shape)).astype(np.float32)
        for name, tensor in initial_tensors(projection_shapes(CONFIG), rank, 0).items()
    }
    return LoraAdapter(rank, 4.0, tuple(PROJECTIONS), tensors)


def together(asked, sampling, stops=NONE, tokens=14, sequences=4, config=CONFIG, lora=None):
    model = BatchGenerator(
        config, WEIGHTS, NumpyBackend(threads=1), lora,
        longest=max(map(len, asked)), max_tokens=tokens, sequences=sequences,
    )  # fmt: skip
    return list(model.generate(asked, sampling, stops))


def alone(asked, sampling, stops=NONE, tokens=14, config=CONFIG, lora=None):
    model = Generator(config, WEIGHTS, NumpyBackend(threads=1), lora)
    return [list(model.generate(prompt, sampling, stops, tokens)) for prompt in asked]


@pytest.mark.parametrize("sampling", [Sampling(), DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("sequences", [2, 3, 8, 64])
def test_answers_are_those_of_prompts_alone(sampling, sequences):
    """Groups of several sizes, the last one with places that are empty."""
    assert together(prompts(), sampling, sequences=sequences) == alone(prompts(), sampling)


def test_answers_with_an_adapter():
    found = together(prompts(), Sampling(), lora=adapter())
    assert found == alone(prompts(), Sampling(), lora=adapter())
    assert found != together(prompts(), Sampling())


def test_each_answer_ends_at_its_own_stop_token():
    free = alone(prompts(), DRAWN)
    stops = frozenset({free[0][0], free[1][5], free[2][9]})
    found = together(prompts(), DRAWN, stops)
    assert found == alone(prompts(), DRAWN, stops)
    assert len({len(answer) for answer in found}) > 3
    assert found[0] == []


def test_more_stop_tokens_than_the_device_tests_for():
    stops = frozenset(range(0, CONFIG.vocab_size, 2))
    found = together(prompts(), DRAWN, stops)
    assert found == alone(prompts(), DRAWN, stops)
    assert any(found)


def test_a_long_prompt_leaves_its_neighbours_alone():
    """It has room for one token, the others for twenty more: they go on in slots of their own."""
    config = replace(CONFIG, max_position_embeddings=31)
    asked = prompts((30, 4, 29, 1, 2))
    found = together(asked, Sampling(), tokens=20, config=config)
    assert found == alone(asked, Sampling(), tokens=20, config=config)
    assert [len(answer) for answer in found] == [1, 20, 2, 20, 20]


def test_a_second_call_finds_nothing_of_the_first():
    model = BatchGenerator(
        CONFIG, WEIGHTS, NumpyBackend(threads=1), longest=30, max_tokens=8, sequences=4
    )
    wanted = alone(prompts(), Sampling(), tokens=8)
    for _ in range(2):
        assert list(model.generate(prompts(), Sampling(), NONE)) == wanted
    model.use(adapter())
    assert list(model.generate(prompts(), Sampling(), NONE)) == alone(
        prompts(), Sampling(), tokens=8, lora=adapter()
    )


def planted(monkeypatch, name, change):
    """Lay prompts out with one input changed."""
    right = BatchGenerator._lay_out

    def wrong(self, asked):
        fed = right(self, asked)
        return {**fed, name: np.asarray(change(fed), np.int32)}

    monkeypatch.setattr(BatchGenerator, "_lay_out", wrong)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("first", lambda fed: 0 * fed["first"]),
        ("last", lambda fed: fed["last"] - (fed["last"] > fed["first"])),
        ("positions", lambda fed: np.arange(fed["positions"].size)),
        ("end", lambda fed: fed["end"] + 1),
        ("behind", lambda fed: fed["behind"] + 1),
        ("behind", lambda fed: fed["behind"] - 1),
        ("row", lambda fed: np.roll(fed["row"], 1)),
        ("slots", lambda fed: np.append(fed["slots"][:27], [0] * 37)),
    ],
    ids=["first", "last", "positions", "end", "gap", "overwritten", "row", "padding"],
)
def test_a_prompt_laid_out_wrongly_is_noticed(monkeypatch, name, change):
    asked = prompts(LENGTHS[:4])
    wanted = together(asked, DRAWN)
    planted(monkeypatch, name, change)
    assert together(asked, DRAWN) != wanted == alone(asked, DRAWN)


def test_a_shared_random_stream_is_noticed(monkeypatch):
    """Noise that counts the rows and not the positions would part the two."""
    planted(monkeypatch, "end", lambda fed: fed["end"] + np.arange(4))
    asked = [prompts()[0]] * 4
    found = together(asked, DRAWN)
    assert found[0] == alone(asked, DRAWN)[0]
    assert found[1] != found[0]


def test_prompts_that_cannot_be_answered_together():
    model = BatchGenerator(
        CONFIG, WEIGHTS, NumpyBackend(threads=1), longest=4, max_tokens=8, sequences=2
    )
    for asked, said in (([[1], []], "no tokens"), ([[1] * 5], "5 tokens"), ([[1] * 600], "512")):
        with pytest.raises(BitgraphError, match=said):
            list(model.generate(asked, Sampling(), NONE))
    with pytest.raises(BitgraphError, match="one prompt at a time"):
        list(model.generate([[1]], Sampling(repetition_penalty=1.1), NONE))
    with pytest.raises(BitgraphError, match="2 or more"):
        together([[1]], Sampling(), sequences=1)
