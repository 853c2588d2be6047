"""What pretraining begins with: weights and a tokenizer."""

import json
import math
import random

import numpy as np
import pytest
import tokenizers
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.tensors import Ternary
from bitgraph.models.bitnet.config import weight_shapes
from bitgraph.models.bitnet.masters import initial_masters, masters_of, model_weights
from bitgraph.models.bitnet.presets import preset_config
from bitgraph.models.bitnet.tokenizer import SPLIT_PATTERN, Tokenizer
from bitgraph.models.bitnet.trained_tokenizer import train_tokenizer

CONFIG = preset_config("nano", num_hidden_layers=2)
TEXT = ["low lower lowest", "new newer newest", "wide wider widest", "how many letters has wide?"]


def test_masters_have_the_deviations_that_are_stated():
    masters = initial_masters(CONFIG, 0)
    assert {name: value.shape for name, value in masters.items()} == weight_shapes(CONFIG)
    for name, value in masters.items():
        assert value.dtype == np.float32
        if value.ndim == 1:
            assert np.all(value == 1)
            continue
        wanted = 1 / math.sqrt(value.shape[1])
        if name == "embed_tokens.weight":
            wanted /= 2
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            wanted /= 2  # sqrt(2 * 2 layers)
        assert np.std(value) == pytest.approx(wanted, rel=0.02), name
        assert abs(np.mean(value)) < 0.02 * wanted


def test_masters_of_a_model_round_to_its_weights():
    weights = model_weights(initial_masters(CONFIG, 0))
    back = model_weights(masters_of(weights))
    for name, value in weights.items():
        if isinstance(value, Ternary):
            assert back[name].packed.tobytes() == value.packed.tobytes()
            assert back[name].scale == pytest.approx(value.scale, rel=1e-6)
        else:
            assert np.array_equal(back[name], value)


def test_a_matrix_of_zeros_has_masters_too():
    masters = masters_of({"w": Ternary.pack(np.zeros((3, 4), np.int8), 0.5)})
    assert not masters["w"].any()


def test_every_weight_has_draws_of_its_own():
    masters = initial_masters(CONFIG, 0)
    q0, q1 = (masters[f"layers.{k}.self_attn.q_proj.weight"] for k in (0, 1))
    assert abs(np.corrcoef(q0.ravel(), q1.ravel())[0, 1]) < 0.02
    again, other = initial_masters(CONFIG, 0), initial_masters(CONFIG, 1)
    name = "layers.1.mlp.up_proj.weight"
    assert np.array_equal(again[name], masters[name])
    assert not np.array_equal(other[name], masters[name])


def test_projections_alone_become_ternary():
    masters = {
        "layers.0.mlp.up_proj.weight": np.array([[0.3, -0.9, 0.1, -0.1]], np.float32),
        "norm.weight": np.array([1.5], np.float32),
    }
    weights = model_weights(masters)
    up = weights["layers.0.mlp.up_proj.weight"]
    assert up.codes().tolist() == [[1, -1, 0, 0]]
    assert up.scale == pytest.approx(0.35, rel=1e-6)
    assert weights["norm.weight"] is masters["norm.weight"]


def test_a_trained_tokenizer_takes_the_most_frequent_pair_first():
    metadata = train_tokenizer(["ababab", "abc"], 261)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert metadata["tokenizer.ggml.merges"][0] == "a b"
    assert tokens[256] == "ab"
    assert tokens[-3:] == ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    assert Tokenizer.from_metadata(metadata, "made").encode("ab") == [256]


def test_it_does_not_merge_across_pieces():
    """As llama-bpe cuts text: digits in threes, words with the space before them."""
    metadata = train_tokenizer(["12345678 a b a b a b"] * 9, 400)
    merged = metadata["tokenizer.ggml.tokens"][256:-3]
    assert all(len(token) <= 3 for token in merged)
    pieces = tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated")
    assert [text for text, _ in pieces.pre_tokenize_str("12345678 a b")] == [
        "123", "456", "78", " a", " b",
    ]  # fmt: skip
    assert {"123", "456", "78", "\u0120a", "\u0120b"} <= set(merged)


def test_the_same_texts_give_the_same_tokenizer_in_any_order():
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 7))) for _ in range(400)]
    texts = [" ".join(rng.choices(words, k=9)) for _ in range(2000)]
    first = train_tokenizer(texts, 700)
    for _ in range(3):
        rng.shuffle(texts)
        again = train_tokenizer(texts, 700)
        assert again["tokenizer.ggml.merges"] == first["tokenizer.ggml.merges"]
        assert json.dumps(again["tokenizer.ggml.tokens"]) == json.dumps(
            first["tokenizer.ggml.tokens"]
        )


def test_texts_with_little_in_them_give_fewer_tokens():
    tokenizer = Tokenizer.from_metadata(train_tokenizer(TEXT, 2048), "made")
    assert 259 < tokenizer.vocab_size < 2048
    for text in TEXT:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_vocabulary_without_room_for_bytes_is_refused():
    assert Tokenizer.from_metadata(train_tokenizer(TEXT, 259), "made").vocab_size == 259
    with pytest.raises(BitgraphError, match="vocab-size is 258, but bytes and special tokens"):
        train_tokenizer(TEXT, 258)
