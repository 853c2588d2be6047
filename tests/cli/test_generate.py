"""`bitgraph generate`: text on standard output, with and without an adapter."""

import pytest
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.tokenizer import Tokenizer

PROMPT = "the time of"


@pytest.fixture
def generate(bitgraph, model):
    def run(*arguments):
        result = bitgraph("generate", "--backend", "numpy", "--model", model, *arguments)
        assert result.code == 0, result.err
        return result.out

    return run


@pytest.fixture(scope="session")
def count_tokens(model):
    tokenizer = Tokenizer.from_metadata(load_checkpoint(model).metadata, str(model))
    return lambda text: len(tokenizer.encode(text))


def test_greedy_text_is_always_the_same(generate):
    first = generate(PROMPT, "--max-tokens", 12)
    assert first == generate(PROMPT, "--max-tokens", 12)
    assert first.endswith("\n")
    assert len(first) > 2


def test_fewer_tokens_are_the_beginning_of_more(generate):
    long, short = (generate(PROMPT, "--max-tokens", count) for count in (20, 10))
    complete = short.rstrip("\n\ufffd")  # the last character may lack bytes that come later
    assert complete
    assert long.startswith(complete)


def test_sampling_follows_the_seed(generate):
    def sampled(seed, *options):
        return generate(PROMPT, "--max-tokens", 12, "--temperature", 1, "--seed", seed, *options)

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) == 4
    greedy = generate(PROMPT, "--max-tokens", 12)
    assert sampled(1, "--top-k", 1) == greedy
    assert sampled(1, "--top-p", 1e-6) == greedy


def test_the_template_makes_another_prompt(generate):
    raw, alpaca = (
        generate("hot?", "--max-tokens", 8, "--template", name) for name in ("raw", "alpaca")
    )
    assert raw != alpaca


def test_a_trained_answer_comes_back_and_ends(bitgraph, generate, model, data, tmp_path):
    """Train on one record until it is known by heart."""
    record = tmp_path / "record.json"
    record.write_text('[{"instruction": "What is hot?", "output": "not cold"}]')
    result = bitgraph(
        "train", "--model", model, "--data", record, "--out", tmp_path / "run",
        "--backend", "numpy", "--epochs", 60, "--lr", 1e-2, "--batch-size", 1, "--rank", 8,
    )  # fmt: skip
    assert result.code == 0, result.err
    ask = ("--template", "alpaca", "What is hot?", "--max-tokens", 20)
    assert generate("--lora", tmp_path / "run", *ask) == "not cold\n"
    assert "cold" not in generate(*ask)


def test_stats_count_the_tokens(bitgraph, model):
    result = bitgraph(
        "generate", "--backend", "numpy", "--model", model, PROMPT, "--max-tokens", 5, "--stats"
    )
    assert result.err.startswith("5 tokens, ")


def test_generation_ends_with_the_context(bitgraph, model, count_tokens):
    """A prompt that nearly fills the context of 512 leaves room for few tokens."""
    prompt = " a" * 500
    room = 512 - count_tokens(prompt) - 1  # BOS
    assert 0 < room < 20
    result = bitgraph(
        "generate", "--backend", "numpy", "--model", model, prompt, "--max-tokens", 10**9, "--stats"
    )
    assert result.code == 0, result.err
    assert result.err.startswith(f"{room} tokens, ")
