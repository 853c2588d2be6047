import os
import struct
import time
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.tensors import Ternary
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.config import (
    PROJECTIONS,
    BitNetConfig,
    projection_shapes,
    weight_shapes,
)
from bitgraph.models.bitnet.gguf_checkpoint import checkpoint_tensors, save_checkpoint
from bitgraph.models.bitnet.presets import PRESETS
from bitgraph.models.gguf import GgmlType, TensorSource, gguf_size, read_gguf, write_gguf
from gguf_bytes import FLOAT32, gguf, pair, record, text, u32

MINI = Path(__file__).parents[3] / "shared" / "models" / "mini" / "mini-i2_s.gguf"

CONFIG = BitNetConfig(
    vocab_size=40,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=12,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=32,
)
TOKENIZER = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b"]}


def random_weights(config, seed=0):
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith("_proj.weight"):
            weights[name] = Ternary.pack(rng.integers(-1, 2, shape), rng.integers(1, 64) / 32)
        else:
            kind = np.float32 if name.endswith("norm.weight") else np.float16
            weights[name] = rng.standard_normal(shape).astype(kind)
    return weights


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        if isinstance(value, Ternary):
            assert value.scale == theirs[name].scale
            assert value.shape == theirs[name].shape
            assert np.array_equal(value.codes(), theirs[name].codes())
        else:
            assert value.dtype == theirs[name].dtype
            assert np.array_equal(value, theirs[name])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


class Parts:
    """The pairs and tensors of a sound model file, to be changed and written."""

    def __init__(self, path, config=CONFIG):
        self.path = path
        save_checkpoint(path, config, random_weights(config), TOKENIZER)
        file = read_gguf(path)
        self.metadata = dict(file.metadata)
        # Copies: the file they would be views of is about to be replaced.
        self.values = {}
        for name in file.tensors:
            value = file.load(name)
            if isinstance(value, Ternary):
                self.values[name] = Ternary(value.packed.copy(), value.scale, value.shape)
            else:
                self.values[name] = value.copy()

    def write(self):
        sources = [TensorSource.of(*item) for item in self.values.items()]
        write_gguf(self.path, self.metadata, sources)

    def load(self, activation=None):
        self.write()
        return load_checkpoint(self.path, activation)

    def rename_architecture(self, name):
        old = self.metadata["general.architecture"]
        self.metadata = {
            key.replace(f"{old}.", f"{name}.", 1) if key.startswith(f"{old}.") else key: value
            for key, value in self.metadata.items()
        }
        self.metadata["general.architecture"] = name

    def set(self, key, value):
        self.metadata[f"{self.metadata['general.architecture']}.{key}"] = value

    def refused(self, activation=None):
        self.write()
        with pytest.raises(BitgraphError) as caught:
            load_checkpoint(self.path, activation)
        message = str(caught.value)
        assert message.count(str(self.path)) == 1
        assert "\n" not in message
        return message


@pytest.fixture
def parts(path):
    return Parts(path)


# The configuration


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"hidden_size": -64}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"num_key_value_heads": 8}, "not a multiple"),
        ({"head_dim": 32}, "times head_dim 32"),
        ({"hidden_size": 60, "head_dim": 15}, "odd"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"architecture": "llama"}, "llama"),
    ],
)
def test_a_configuration_must_describe_a_model(change, expected):
    with pytest.raises(BitgraphError, match=expected):
        BitNetConfig(**asdict(CONFIG) | change)


def test_weights_of_the_2b_model():
    config = PRESETS["2b-4t"]
    shapes = weight_shapes(config)
    assert len(shapes) == 332
    assert config.num_parameters == 2_412_820_480
    assert shapes["layers.29.self_attn.k_proj.weight"] == (640, 2560)
    assert shapes["layers.0.mlp.down_proj.weight"] == (2560, 6912)
    assert shapes["layers.7.mlp.ffn_sub_norm.weight"] == (6912,)
    projections = projection_shapes(config)
    assert len(projections) == 210 == 30 * len(PROJECTIONS)
    rank = 16
    assert sum(rank * (rows + columns) for rows, columns in projections.values()) == 21_626_880


# Microsoft's file


def test_official_inventory_has_the_official_size():
    tensors = checkpoint_tensors(PRESETS["2b-4t"], {})
    assert len(tensors) == 332
    assert [sum(t.type is kind for t in tensors) for kind in GgmlType] == [121, 1, 0, 0, 210]
    data = sum(tensor.nbytes for tensor in tensors)
    assert all(tensor.nbytes % 32 == 0 for tensor in tensors)
    assert data == 1_187_801_280 - 8_351_360  # the official size and the size of its header
    records = sum(8 + len(t.name) + 4 + 8 * len(t.shape) + 4 + 8 for t in tensors)
    assert gguf_size({}, tensors) == -(-(24 + records) // 32) * 32 + data


def test_official_order():
    names = [tensor.name for tensor in checkpoint_tensors(PRESETS["2b-4t"], {})]
    assert names[0] == "token_embd.weight"
    assert names[-1] == "output_norm.weight"
    assert [name.removeprefix("blk.0.").removesuffix(".weight") for name in names[1:12]] == [
        "attn_norm",
        "ffn_down",
        "ffn_sub_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_norm",
        "attn_sub_norm",
        "attn_k",
        "attn_output",
        "attn_q",
        "attn_v",
    ]
    layers = [name.split(".")[1] for name in names[1:-1:11]]
    assert " ".join(layers[:14]) == "0 1 10 11 12 13 14 15 16 17 18 19 2 20"


def test_written_metadata_are_those_of_the_official_file(parts):
    a = "bitnet-b1.58"
    assert {key: value for key, value in parts.metadata.items() if key[0] != "t"} == {
        "general.architecture": a,
        "general.name": "bitnet",
        f"{a}.vocab_size": 40,
        f"{a}.context_length": 32,
        f"{a}.embedding_length": 64,
        f"{a}.block_count": 12,
        f"{a}.feed_forward_length": 96,
        f"{a}.rope.dimension_count": 16,
        f"{a}.attention.head_count": 4,
        f"{a}.attention.head_count_kv": 2,
        f"{a}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{a}.rope.freq_base": 500000.0,
        "general.file_type": 40,
        "general.quantization_version": 2,
    }


def test_mini_opens_as_a_checkpoint():
    if not MINI.exists():
        pytest.skip("needs ../shared/models/mini (not part of the repository)")
    checkpoint = load_checkpoint(MINI)
    config = checkpoint.config
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (4096, 512, 1408)
    assert (config.num_hidden_layers, config.max_position_embeddings) == (8, 1024)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 2, 64)
    assert (config.hidden_act, config.tie_word_embeddings) == ("relu2", True)
    assert (config.rms_norm_eps, config.rope_theta) == (1e-5, 500000.0)
    assert list(checkpoint.weights) == list(weight_shapes(config))
    for name, shape in weight_shapes(config).items():
        assert checkpoint.weights[name].shape == shape
    assert checkpoint.weights["norm.weight"].dtype == np.float32
    assert checkpoint.weights["embed_tokens.weight"].dtype == np.float16
    assert len(checkpoint.metadata["tokenizer.ggml.tokens"]) == 4096


# Saving and loading


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["bitnet-b1.58", "bitnet-25", "bitnet"])
@pytest.mark.parametrize("act", ["relu2", "silu"])
def test_what_is_saved_is_loaded(path, tied, architecture, act):
    config = replace(CONFIG, tie_word_embeddings=tied, architecture=architecture, hidden_act=act)
    weights = random_weights(config)
    assert ("lm_head.weight" in weights) is not tied
    save_checkpoint(path, config, weights, TOKENIZER)
    checkpoint = load_checkpoint(path)
    assert checkpoint.config == config
    assert checkpoint.path == path
    assert_same(weights, checkpoint.weights)
    assert {key: checkpoint.metadata[key] for key in TOKENIZER} == TOKENIZER


def test_only_what_is_used_is_read(path):
    save_checkpoint(path, CONFIG, random_weights(CONFIG), TOKENIZER)
    broken = read_gguf(path).tensors["blk.3.ffn_up.weight"]
    with path.open("r+b") as file:
        file.seek(broken.offset)
        file.write(b"\xff")
    weights = load_checkpoint(path).weights
    assert weights["layers.2.mlp.up_proj.weight"] is weights["layers.2.mlp.up_proj.weight"]
    with pytest.raises(BitgraphError, match=r"'blk\.3\.ffn_up\.weight'.*2-bit code is 3"):
        weights["layers.3.mlp.up_proj.weight"]
    with pytest.raises(KeyError):
        weights["layers.12.mlp.up_proj.weight"]


def test_the_2b_model_is_opened_without_reading_it(path):
    """A file of its size with nothing but holes after the header."""
    config = PRESETS["2b-4t"]
    records, size = [], 0
    for tensor in checkpoint_tensors(config, {}):
        records.append(record(tensor.name, tensor.shape[::-1], tensor.type, size))
        size += tensor.nbytes
    geometry = {"context_length": 4096, "embedding_length": 2560, "block_count": 30}
    geometry |= {"feed_forward_length": 6912, "attention.head_count": 20}
    geometry |= {"attention.head_count_kv": 5}
    pairs = [text("general.architecture", "bitnet-b1.58")]
    pairs += [u32(f"bitnet-b1.58.{key}", value) for key, value in geometry.items()]
    floats = {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 500000.0}
    for key, value in floats.items():
        pairs.append(pair(f"bitnet-b1.58.{key}", FLOAT32, struct.pack("<f", value)))
    path.write_bytes(gguf(pairs, records))
    os.truncate(path, path.stat().st_size + size)
    start = time.perf_counter()
    checkpoint = load_checkpoint(path)
    assert time.perf_counter() - start < 1
    assert checkpoint.config == config
    assert checkpoint.weights["embed_tokens.weight"].shape == (128256, 2560)
    assert checkpoint.weights["norm.weight"].tolist() == [0.0] * 2560
    with pytest.raises(BitgraphError, match="scale is 0"):
        checkpoint.weights["layers.29.mlp.down_proj.weight"]


def test_a_weight_that_is_missing_leaves_no_file(path):
    weights = random_weights(CONFIG)
    del weights["norm.weight"]
    with pytest.raises(BitgraphError, match=r"norm\.weight is missing"):
        save_checkpoint(path, CONFIG, weights, TOKENIZER)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("embed_tokens.weight", np.full((40, 64), 1e6, np.float32), "F16 cannot store"),
        ("embed_tokens.weight", np.full((40, 64), np.nan, np.float16), "F16 cannot store"),
        ("embed_tokens.weight", np.zeros((41, 64), np.float16), "shape"),
        ("norm.weight", np.full(64, np.inf, np.float32), "F32 cannot store"),
        ("layers.1.self_attn.q_proj.weight", np.zeros((64, 64), np.float32), "is float32"),
        ("layers.1.self_attn.q_proj.weight", Ternary.pack(np.zeros((32, 64)), 1.0), "shape"),
    ],
)
def test_a_weight_that_does_not_fit_leaves_no_file(path, name, value, expected):
    with pytest.raises(BitgraphError, match=expected):
        save_checkpoint(path, CONFIG, random_weights(CONFIG) | {name: value}, TOKENIZER)
    assert list(path.parent.iterdir()) == []


# What other files may hold


def test_older_upload_with_its_own_output_matrix(parts):
    parts.rename_architecture("bitnet-25")
    output = np.arange(40 * 64, dtype=np.float16).reshape(40, 64)
    parts.values["output.weight"] = output
    checkpoint = parts.load()
    assert checkpoint.config.architecture == "bitnet-25"
    assert checkpoint.config.hidden_act == "relu2"
    assert not checkpoint.config.tie_word_embeddings
    assert np.array_equal(checkpoint.weights["lm_head.weight"], output)


def test_mainline_needs_an_activation(parts):
    parts.rename_architecture("bitnet")
    message = parts.refused()
    assert "bitnet.hidden_activation is missing" in message
    assert "relu2 or silu" in message
    assert parts.load("silu").config.hidden_act == "silu"
    parts.set("hidden_activation", "relu2")
    assert parts.load().config.hidden_act == "relu2"
    assert parts.load("silu").config.hidden_act == "silu"
    parts.set("hidden_activation", "gelu")
    assert "'gelu'" in parts.refused()
    parts.set("hidden_activation", 1)
    assert "hidden_activation" in parts.refused()


def test_an_activation_of_the_argument_is_checked(parts):
    assert "'tanh'" in parts.refused("tanh")


def test_scales_beside_the_matrices_are_taken_in(parts):
    parts.rename_architecture("bitnet")
    before = {name: value.scale for name, value in parts.values.items() if "_q" in name}
    for name in before:
        parts.values[name.replace("weight", "scale")] = np.array([0.5], np.float32)
    weights = parts.load("relu2").weights
    assert len(before) == 12
    for layer in range(12):
        scale = weights[f"layers.{layer}.self_attn.q_proj.weight"].scale
        assert scale == before[f"blk.{layer}.attn_q.weight"] * 0.5
        other = weights[f"layers.{layer}.self_attn.k_proj.weight"].scale
        assert other == parts.values[f"blk.{layer}.attn_k.weight"].scale


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_scales_beside_the_matrices_are_positive(parts, scale):
    parts.values["blk.0.attn_q.scale"] = np.array([scale], np.float32)
    weights = parts.load().weights
    with pytest.raises(BitgraphError, match=r"blk\.0\.attn_q\.scale"):
        weights["layers.0.self_attn.q_proj.weight"]


def test_norms_and_embeddings_of_other_float_types(parts):
    embedding = parts.values["token_embd.weight"].astype(np.float32)
    norm = np.linspace(0.5, 2, 64).astype(np.float16)
    parts.values |= {"token_embd.weight": embedding, "output_norm.weight": norm}
    weights = parts.load().weights
    assert weights["embed_tokens.weight"].dtype == np.float32
    assert weights["norm.weight"].dtype == np.float32
    assert np.array_equal(weights["norm.weight"], norm)


def test_keys_that_may_be_absent(parts):
    for key in ("vocab_size", "rope.dimension_count", "attention.head_count_kv", "rope.freq_base"):
        del parts.metadata[f"bitnet-b1.58.{key}"]
    for layer in range(12):  # without the key, every head has its own keys and values
        for name in ("attn_k", "attn_v"):
            parts.values[f"blk.{layer}.{name}.weight"] = Ternary.pack(np.ones((64, 64)), 1.0)
    config = parts.load().config
    assert (config.vocab_size, config.head_dim, config.num_key_value_heads) == (40, 16, 4)
    assert config.rope_theta == 10000.0


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "none"},
        {"type": "linear", "factor": 1.0},
        {"type": "linear", "factor": 1.0, "attn_factor": 1.0, "finetuned": False},
    ],
)
def test_rope_scaling_that_does_nothing_is_accepted(parts, scaling):
    for key, value in scaling.items():
        parts.set(f"rope.scaling.{key}", value)
    assert parts.load().config == CONFIG


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("type", "yarn"),
        ("type", 1),
        ("type", ["linear"]),
        ("factor", 4.0),
        ("factor", float("nan")),
        ("factor", np.ones(2, np.float32)),
        ("attn_factor", 0.5),
        ("original_context_length", 2048),
    ],
)
def test_rope_scaling_is_refused(parts, key, value):
    parts.set(f"rope.scaling.{key}", value)
    message = parts.refused()
    assert f"bitnet-b1.58.rope.scaling.{key}" in message
    assert "not supported" in message


@pytest.mark.parametrize("architecture", ["llama", "", "BITNET", 7, ["bitnet"], None])
def test_other_architectures_are_refused(parts, architecture):
    if architecture is None:
        del parts.metadata["general.architecture"]
    else:
        parts.metadata["general.architecture"] = architecture
    message = parts.refused()
    assert f"architecture {architecture!r} is not supported" in message


@pytest.mark.parametrize(
    "key",
    [
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ],
)
def test_required_keys(parts, key):
    parts.set(key, "text")
    assert f"bitnet-b1.58.{key} is not a number" in parts.refused()
    parts.set(key, True)
    assert f"bitnet-b1.58.{key} is not a number" in parts.refused()
    parts.set(key, np.array([1], np.int32))
    assert f"bitnet-b1.58.{key} is not a number" in parts.refused()
    del parts.metadata[f"bitnet-b1.58.{key}"]
    assert f"bitnet-b1.58.{key} is missing" in parts.refused()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("vocab_size", 41, "vocab_size is 41, but token_embd.weight has 40 rows"),
        ("embedding_length", 128, "hidden_size 128"),
        ("embedding_length", 64.0, "not a whole number"),
        ("embedding_length", 0, "hidden_size"),
        ("feed_forward_length", 128, "shape"),
        ("attention.head_count", 0, "num_attention_heads"),
        ("attention.head_count", 4_000_000_000, "num_attention_heads"),
        ("attention.head_count_kv", 4, "shape [32, 64], but the model's keys call for [64, 64]"),
        ("attention.head_count_kv", 3, "num_key_value_heads 3"),
        ("rope.dimension_count", 8, "head_dim 8"),
        ("context_length", 0, "max_position_embeddings"),
        ("rope.freq_base", 0.0, "rope_theta"),
        ("attention.layer_norm_rms_epsilon", float("nan"), "rms_norm_eps"),
        ("block_count", 13, "block_count is 13, but the file has only 134 tensors"),
        ("block_count", 11, "'blk.11."),
        ("block_count", 0, "num_hidden_layers"),
    ],
)
def test_keys_that_contradict(parts, key, value, expected):
    parts.set(key, value)
    assert expected in parts.refused()


def test_a_huge_layer_count_costs_nothing(parts):
    parts.set("block_count", 4_294_967_295)
    tracemalloc.start()
    try:
        assert "block_count is 4294967295" in parts.refused()
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name", ["token_embd.weight", "output_norm.weight", "blk.7.attn_sub_norm.weight"]
)
def test_missing_tensors_are_named(parts, name):
    parts.values["blk.7.attn_q.scale"] = np.ones(1, np.float32)  # keeps their number
    del parts.values[name]
    assert f"'{name}' is missing" in parts.refused()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blk.0.attn_q.bias", np.zeros(64, np.float32)),
        ("rope_freqs.weight", np.ones(8, np.float32)),
        ("blk.12.attn_norm.weight", np.ones(64, np.float32)),
        ("blk.0.attn_norm.scale", np.ones(1, np.float32)),
        ("blk.0.attn_q.scale", np.ones(2, np.float32)),
        ("blk.0.attn_q.scale", np.ones(1, np.float16)),
    ],
)
def test_unexpected_tensors_are_named(parts, name, value):
    parts.values[name] = value
    assert f"'{name}'" in parts.refused()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("blk.0.attn_q.weight", np.zeros((64, 64), np.float16), "type F16, but must be I2_S"),
        ("blk.0.attn_norm.weight", Ternary.pack(np.zeros((2, 64)), 1.0), "shape [2, 64]"),
        ("token_embd.weight", Ternary.pack(np.zeros((40, 64)), 1.0), "must be F32 or F16"),
        ("token_embd.weight", np.zeros((40, 32), np.float16), "shape [40, 32]"),
        ("blk.5.ffn_down.weight", Ternary.pack(np.zeros((96, 64)), 1.0), "call for [64, 96]"),
    ],
)
def test_tensors_of_another_type_or_shape(parts, name, value, expected):
    parts.values[name] = value
    message = parts.refused()
    assert f"'{name}'" in message
    assert expected in message


def test_norms_are_finite(parts):
    parts.values["blk.2.ffn_norm.weight"][5] = np.nan
    weights = parts.load().weights
    with pytest.raises(BitgraphError, match=r"blk\.2\.ffn_norm\.weight.*not finite"):
        weights["layers.2.post_attention_layernorm.weight"]


@pytest.mark.parametrize("missing", ["nothing.gguf", "."])
def test_no_file(tmp_path, missing):
    with pytest.raises(BitgraphError, match=r"does not exist|has no config\.json"):
        load_checkpoint(tmp_path / missing)
