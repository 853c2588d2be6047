"""Generation: penalties, filters, adapters and the reuse of the cache, against plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.adapters.lora import LoraAdapter, initial_tensors
from bitgraph.models.adapters.stacking import stack
from bitgraph.models.bitnet.config import projection_shapes
from bitgraph.models.bitnet.forward import logits_graph
from bitgraph.models.bitnet.generate import Generator, Sampling
from bitgraph.passes.lora import Lora
from tiny_model import CONFIG, model_values

WEIGHTS = model_values()
PROMPT = [3, 14, 15, 9, 26, 5]
NONE = frozenset[int]()


def generator(adapter=None, context=64):
    return Generator(CONFIG, WEIGHTS, NumpyBackend(threads=1), adapter, context)


def made(targets, rank, seed, alpha=4.0):
    rng = np.random.default_rng(seed)
    shapes = {m: s for m, s in projection_shapes(CONFIG).items() if m.endswith(targets)}
    tensors = {
        name: (tensor + rng.standard_normal(tensor.shape)).astype(np.float32)
        for name, tensor in initial_tensors(shapes, rank, seed).items()
    }
    return LoraAdapter(rank, alpha, targets, tensors)


def logits_behind(tokens, adapter=None):
    """The whole sequence at once, without a cache."""
    graph = logits_graph(CONFIG, len(tokens))
    values = dict(WEIGHTS)
    if adapter is not None:
        graph = Lora(adapter.rank, adapter.alpha, tuple(adapter.modules))(graph)
        values |= adapter.tensors
    places = np.arange(len(tokens), dtype=np.int32)
    inputs = {"positions": places, "first": 0 * places, "last": places}
    return evaluate(graph, {**values, **inputs, "tokens": np.array(tokens, np.int32)})["logits"][-1]


def greedy(count, penalty=1.0, adapter=None, prompt=PROMPT):
    tokens = list(prompt)
    for _ in range(count):
        logits = logits_behind(tokens, adapter).astype(np.float64)
        for token in set(tokens):
            logits[token] = (
                logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
            )
        tokens.append(int(np.argmax(logits)))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("penalty", [1.0, 1.3, 1000.0, 0.5])
def test_repetitions_are_penalized(penalty):
    sampling = Sampling(repetition_penalty=penalty)
    found = list(generator().generate(PROMPT, sampling, NONE, 12))
    assert found == greedy(12, penalty)
    if penalty == 1000:
        assert len({*PROMPT, *found}) == len(PROMPT) + 12  # PROMPT has no token twice


def test_every_token_of_a_prompt_is_penalized():
    """Each token in turn is the first or the last one of a prompt, some of them likely ones."""
    model, sampling = generator(), Sampling(repetition_penalty=1000.0)
    for token in range(0, CONFIG.vocab_size, 2):
        for prompt in ([token, 15, 9], [15, 9, token]):
            found = list(model.generate(prompt, sampling, NONE, 3))
            assert found == greedy(3, 1000.0, prompt=prompt)


def test_a_penalty_forgets_the_text_before():
    model = generator()
    sampling = Sampling(repetition_penalty=1000.0)
    first = list(model.generate(PROMPT, sampling, NONE, 8))
    assert list(model.generate(PROMPT, sampling, NONE, 8)) == first
    assert list(model.generate(PROMPT, Sampling(), NONE, 8)) == greedy(8)


@pytest.mark.parametrize("min_p", [0.2, 0.7, 1.0])
def test_only_tokens_near_the_best_are_sampled(min_p):
    sampling = Sampling(temperature=1.5, min_p=min_p)
    tokens = list(PROMPT)
    for token in generator().generate(PROMPT, replace(sampling, seed=4), NONE, 12):
        logits = logits_behind(tokens) / 1.5
        p = np.exp(logits - logits.max())
        assert p[token] >= min_p * (1 - 1e-3)
        tokens.append(token)


def test_a_filter_that_keeps_all_changes_nothing():
    plain = Sampling(temperature=1.5, seed=3)
    assert plain.inputs()["reach"] < 0
    assert "penalty" not in plain.inputs()
    wanted = list(generator().generate(PROMPT, plain, NONE, 16))
    open_wide = replace(plain, min_p=1e-30)
    assert list(generator().generate(PROMPT, open_wide, NONE, 16)) == wanted


@pytest.mark.parametrize(
    "field", [{"min_p": -0.1}, {"min_p": 1.1}, {"min_p": math.nan}, {"repetition_penalty": 0},
              {"repetition_penalty": math.inf}, {"repetition_penalty": math.nan}],
)  # fmt: skip
def test_sampling_out_of_range(field):
    name = next(iter(field)).replace("_", "-")
    with pytest.raises(BitgraphError, match=name):
        Sampling(**field)


# The cache


def test_a_longer_prompt_is_fed_from_where_it_differs():
    """As in a conversation: the answers are those of a generator that begins anew."""
    model = generator()
    fed = []
    run = model._model.program

    def spy(tokens, penalized):
        fed.append(tokens)
        return run(tokens, penalized)

    model._model.program = spy
    prompt = list(PROMPT)
    for turn in range(3):
        answer = list(model.generate(prompt, Sampling(), NONE, 5))
        assert answer == list(generator().generate(prompt, Sampling(), NONE, 5))
        prompt += [*answer[:4], 7 + turn, 11]
    assert model._cached[: len(PROMPT)] == PROMPT
    assert max(fed) == 64  # the last bucket is what the context of 64 leaves behind the prefix
    assert [size for size in fed if 0 < size < 64] == [64 - 10, 64 - 16]


def test_a_prompt_that_went_before_is_answered_again():
    model = generator()
    wanted = list(model.generate(PROMPT, Sampling(), NONE, 6))
    for prompt in (PROMPT, PROMPT[:3], [1, 2], PROMPT):
        found = list(model.generate(prompt, Sampling(), NONE, 6))
        assert found == list(generator().generate(prompt, Sampling(), NONE, 6))
    assert found == wanted


def test_an_answer_cut_off_leaves_the_cache_sound():
    model = generator()
    answer = model.generate(PROMPT, Sampling(), NONE, 20)
    begun = [next(answer) for _ in range(3)]
    answer.close()
    prompt = PROMPT + begun + [2, 4]
    assert list(model.generate(prompt, Sampling(), NONE, 6)) == list(
        generator().generate(prompt, Sampling(), NONE, 6)
    )


# Adapters


def test_an_adapter_through_the_cache():
    adapter = made(("q_proj", "up_proj"), 2, 1)
    assert list(generator(adapter).generate(PROMPT, Sampling(), NONE, 10)) == greedy(
        10, adapter=adapter
    )


def test_adapters_add_up():
    """On modules that both have, and that one has: as weights W + sum of c s B A."""
    parts = [(made(("q_proj", "v_proj"), 2, 1), 0.5), (made(("q_proj", "up_proj"), 3, 2), -1.5)]
    both = stack(parts)
    assert both.rank == 5
    assert both.scaling == 1
    for module in both.modules:
        a, b = (both.tensors[f"{module}.lora_{half}.weight"] for half in "AB")
        wanted = sum(
            factor * part.scaling
            * part.tensors[f"{module}.lora_B.weight"].astype(np.float64)
            @ part.tensors[f"{module}.lora_A.weight"]
            for part, factor in parts
            if module in part.modules
        )  # fmt: skip
        np.testing.assert_allclose(b @ a, wanted, rtol=1e-4, atol=1e-4)
    assert {m.rsplit(".", 1)[1] for m in both.modules} == {"q_proj", "v_proj", "up_proj"}


def test_modules_of_unequal_ranks_stack():
    names = ("q_proj", "up_proj")
    shapes = {m: s for m, s in projection_shapes(CONFIG).items() if m.endswith(names)}
    ranks = {module: 3 if module.endswith("up_proj") else 2 for module in shapes}
    tensors = {n: t + np.float32(0.5) for n, t in initial_tensors(shapes, ranks, 0).items()}
    patterns = {"rank_pattern": {"up_proj": 3}, "alpha_pattern": {"q_proj": 1.0}}
    uneven = LoraAdapter(2, 6.0, ("q_proj", "up_proj"), tensors, **patterns)
    other = made(("q_proj",), 1, 5)
    both = stack([(uneven, 1.0), (other, 1.0)])
    assert both.rank == 4
    for module in uneven.modules:
        a, b = (both.tensors[f"{module}.lora_{half}.weight"] for half in "AB")
        wanted = 0.0
        for part in (uneven, other):
            if module in part.modules:
                low, high = (part.tensors[f"{module}.lora_{half}.weight"] for half in "AB")
                wanted = wanted + part.scaling_of(module) * high @ low
        np.testing.assert_allclose(b @ a, wanted, rtol=1e-4, atol=1e-4)


def test_a_factor_of_zero_leaves_an_adapter_out():
    one, other = made(("q_proj",), 2, 1), made(("q_proj",), 3, 2)
    prompt = (PROMPT, Sampling(), NONE, 10)
    alone = list(generator(one).generate(*prompt))
    assert list(generator(stack([(one, 1.0), (other, 0.0)])).generate(*prompt)) == alone
    assert list(generator(stack([(one, 0.0), (other, 0.0)])).generate(*prompt)) == greedy(10)


def test_switching_factors_compiles_nothing():
    one, other = made(("q_proj",), 2, 1), made(("up_proj",), 3, 2)
    model = generator(stack([(one, 1.0), (other, 0.0)]))
    prompt = (PROMPT, Sampling(), NONE, 10)
    first = list(model.generate(*prompt))
    programs = dict(model._model._programs)
    model.use(stack([(one, 0.0), (other, 1.0)]))
    assert list(model.generate(*prompt)) == list(generator(other).generate(*prompt)) != first
    assert model._model._programs == programs
    model.use(None)
    assert list(model.generate(*prompt)) == greedy(10)


def test_adapters_of_different_models_do_not_add_up():
    one, other = made(("q_proj",), 2, 1), made(("q_proj",), 2, 2)
    name = "layers.0.self_attn.q_proj.lora_A.weight"
    other.tensors[name] = np.ones((2, 99), np.float32)
    with pytest.raises(BitgraphError, match=r"layers\.0\.self_attn\.q_proj"):
        stack([(one, 1.0), (other, 1.0)])
