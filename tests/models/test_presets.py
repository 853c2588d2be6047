import math
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.gguf_checkpoint import checkpoint_tensors
from bitgraph.models.bitnet.metadata import write_config
from bitgraph.models.bitnet.presets import PRESETS, preset_config, write_random_model
from bitgraph.models.bitnet.synthetic_tokenizer import synthetic_tokenizer
from bitgraph.models.bitnet.tokenizer import Tokenizer
from bitgraph.models.gguf import gguf_size

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("presets") / "tiny.gguf"
    write_random_model(path, TINY, seed=0)
    return load_checkpoint(path)


def rms_norm(x, gain, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def rotate(x, theta):
    """x: [heads, tokens, head_dim]; pairs are (i, i + head_dim / 2)."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def forward(checkpoint, ids):
    """Logits of a plain float64 forward pass, and the residual stream after each block."""
    c, w = checkpoint.config, checkpoint.weights

    def linear(x, name):
        weight = w[f"{name}.weight"]
        return x @ weight.dense(np.float64).T * weight.scale

    def heads(x):
        return x.reshape(len(ids), -1, c.head_dim).transpose(1, 0, 2)

    x = w["embed_tokens.weight"][ids].astype(np.float64)
    stream = []
    mask = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for index in range(c.num_hidden_layers):
        at = f"layers.{index}"
        h = rms_norm(x, w[f"{at}.input_layernorm.weight"], c.rms_norm_eps)
        q, k, v = (heads(linear(h, f"{at}.self_attn.{name}_proj")) for name in "qkv")
        group = c.num_attention_heads // c.num_key_value_heads
        k, v = np.repeat(rotate(k, c.rope_theta), group, 0), np.repeat(v, group, 0)
        scores = rotate(q, c.rope_theta) @ k.transpose(0, 2, 1) / math.sqrt(c.head_dim) + mask
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        h = (weights / weights.sum(-1, keepdims=True)) @ v
        h = h.transpose(1, 0, 2).reshape(len(ids), -1)
        h = rms_norm(h, w[f"{at}.self_attn.attn_sub_norm.weight"], c.rms_norm_eps)
        x = x + linear(h, f"{at}.self_attn.o_proj")
        h = rms_norm(x, w[f"{at}.post_attention_layernorm.weight"], c.rms_norm_eps)
        h = np.maximum(linear(h, f"{at}.mlp.gate_proj"), 0) ** 2 * linear(h, f"{at}.mlp.up_proj")
        h = rms_norm(h, w[f"{at}.mlp.ffn_sub_norm.weight"], c.rms_norm_eps)
        x = x + linear(h, f"{at}.mlp.down_proj")
        stream.append(x)
    x = rms_norm(x, w["norm.weight"], c.rms_norm_eps)
    return x @ w["embed_tokens.weight"].astype(np.float64).T, stream


def test_random_model_is_sane(tiny):
    ids = np.random.default_rng(1).integers(0, TINY.vocab_size, 64)
    logits, stream = forward(tiny, ids)
    assert 0.3 < logits.std() < 0.8
    for hidden in stream:
        assert 0.3 < np.sqrt((hidden**2).mean()) < 5
    log_sum = np.log(np.exp(logits).sum(-1))
    loss = (log_sum[:-1] - logits[np.arange(63), ids[1:]]).mean()
    assert abs(loss - math.log(TINY.vocab_size)) < 0.3


def test_random_codes_are_uniform(tiny):
    for name, value in tiny.weights.items():
        if name.endswith("_proj.weight"):
            counts = np.bincount(value.codes().reshape(-1) + 1, minlength=3) / value.codes().size
            assert counts.shape == (3,)
            assert np.abs(counts - 1 / 3).max() < 0.02
            assert value.scale == np.float32(math.sqrt(1.5 / value.shape[1]))


def test_weights_differ_and_the_seed_decides(tmp_path, tiny):
    names = ["q_proj", "o_proj"]
    codes = [
        tiny.weights[f"layers.{layer}.self_attn.{name}.weight"].packed.tobytes()
        for layer in (0, 1)
        for name in names
    ]
    assert len(set(codes)) == 4
    for number, seed in enumerate([0, 0, 1]):
        write_random_model(tmp_path / str(number), TINY, seed)
    first, same, other = ((tmp_path / str(number)).read_bytes() for number in range(3))
    assert first == same
    assert first == tiny.path.read_bytes()
    assert first != other
    assert len(first) == len(other)


def test_a_layer_is_the_same_in_a_deeper_model(tmp_path, tiny):
    write_random_model(tmp_path / "deep.gguf", replace(TINY, num_hidden_layers=11), 0)
    deep = load_checkpoint(tmp_path / "deep.gguf")
    assert deep.config.num_hidden_layers == 11
    name = "layers.1.mlp.up_proj.weight"
    assert np.array_equal(deep.weights[name].packed, tiny.weights[name].packed)


@pytest.mark.parametrize("tied", [True, False])
def test_untied_models_have_an_output_matrix_of_their_own(tmp_path, tied):
    write_random_model(tmp_path / "m.gguf", replace(TINY, tie_word_embeddings=tied), 3)
    weights = load_checkpoint(tmp_path / "m.gguf").weights
    assert ("lm_head.weight" in weights) is not tied
    if not tied:
        assert not np.array_equal(weights["lm_head.weight"], weights["embed_tokens.weight"])


# Presets


def test_2b_4t_has_the_published_geometry():
    config = PRESETS["2b-4t"]
    assert config.num_parameters == 2_412_820_480
    metadata = write_config(config, synthetic_tokenizer(config.vocab_size), "random")
    size = gguf_size(metadata, checkpoint_tensors(config, {}))
    assert abs(size / 1_187_801_280 - 1) < 0.005


def test_fields_can_be_overridden():
    config = preset_config("tiny", num_hidden_layers=4, hidden_size=256, vocab_size=None)
    assert config == replace(TINY, num_hidden_layers=4, hidden_size=256, head_dim=64)
    assert preset_config("tiny", num_attention_heads=8).head_dim == 16
    assert preset_config("2b-4t") == PRESETS["2b-4t"]


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("huge", {}, "no preset 'huge'; choose one of tiny, nano, 2b-4t"),
        ("tiny", {"hidden_size": 130}, "hidden_size 130"),
        ("tiny", {"num_attention_heads": 0}, "num_attention_heads"),
        ("tiny", {"num_attention_heads": 3}, "num_attention_heads 3"),
        ("tiny", {"num_hidden_layers": -1}, "num_hidden_layers"),
    ],
)
def test_presets_that_describe_no_model(name, overrides, expected):
    with pytest.raises(BitgraphError, match=expected):
        preset_config(name, **overrides)


@pytest.mark.parametrize(
    ("config", "seed", "expected"),
    [
        (TINY, -1, "seed"),
        (replace(TINY, vocab_size=258), 0, "vocab_size must be at least 259"),
        (replace(TINY, vocab_size=10_000_000), 0, "vocab_size must be at most"),
        (replace(TINY, hidden_size=20, num_attention_heads=2, head_dim=10), 0, "multiple of 128"),
    ],
)
def test_models_that_cannot_be_written_leave_no_file(tmp_path, config, seed, expected):
    with pytest.raises(BitgraphError, match=expected):
        write_random_model(tmp_path / "m.gguf", config, seed)
    assert list(tmp_path.iterdir()) == []


# The tokenizer

TEXTS = [
    "The people know that they will be there in time.",
    "def f(x):\n\treturn x ** 2  # squares\n",
    "Ünïcödé, 漢字, 🙂 and \x00 control\r\n",
    "",
    " " * 17,
]


@pytest.mark.parametrize("vocab_size", [259, 260, 512, 4096, 128256])
def test_the_tokenizer_works(vocab_size):
    metadata = synthetic_tokenizer(vocab_size)
    tokenizer = Tokenizer.from_metadata(metadata, "synthetic")
    assert tokenizer.vocab_size == vocab_size
    assert (tokenizer.bos_id, tokenizer.eos_id) == (vocab_size - 3, vocab_size - 2)
    assert tokenizer.stop_ids == {vocab_size - 2, vocab_size - 1}
    assert tokenizer.add_bos
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= token < vocab_size - 3 for token in ids)


def test_every_merge_makes_the_next_token():
    metadata = synthetic_tokenizer(5000)
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    assert len(tokens) == len(set(tokens)) == 5000
    assert len(merges) == len(set(merges)) == 5000 - 256 - 3
    place = {token: number for number, token in enumerate(tokens)}
    for number, merge in enumerate(merges, start=256):
        left, right = merge.split(" ")
        assert tokens[number] == left + right
        assert place[left] < number
        assert place[right] < 256


def test_the_first_tokens_are_gpt2s_bytes():
    tokens = synthetic_tokenizer(300)["tokenizer.ggml.tokens"]
    assert tokens[:4] == ["!", '"', "#", "$"]
    assert tokens[187:190] == ["ÿ", "Ā", "ā"]
    assert set(tokens[:256]) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    types = synthetic_tokenizer(300)["tokenizer.ggml.token_type"]
    assert types.tolist() == [1] * 297 + [3] * 3


def test_words_become_fewer_tokens_with_a_larger_vocabulary():
    text = " the work that people know because they think about it" * 3
    lengths = [
        len(Tokenizer.from_metadata(synthetic_tokenizer(size), "synthetic").encode(text))
        for size in (259, 400, 600, 5000)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == len(text)
    assert lengths[-1] * 3 < len(text)
