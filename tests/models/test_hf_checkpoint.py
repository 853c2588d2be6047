"""Hugging Face folders, packed and as masters: the same model as from GGUF, or one sentence."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.tensors import Ternary
from bitgraph.models.bitnet.checkpoint import Checkpoint, load_checkpoint
from bitgraph.models.bitnet.config import weight_shapes
from bitgraph.models.bitnet.forward import logits_graph
from bitgraph.models.bitnet.hf_checkpoint import ternarize
from bitgraph.models.bitnet.tokenizer import Tokenizer
from hf_folders import CONFIG, bf16, config_keys, plain, stored, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Arrays, batch, feeds, loaded, mask, mini, reference

__all__ = ["mini", "reference"]

AUTO = {"linear_class": "autobitlinear", "quantization_mode": "offline"}
UP = "model.layers.1.mlp.up_proj.weight"


def random_weights(config=CONFIG, seed=0):
    """Values that BF16 holds exactly, scales among them."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith("_proj.weight"):
            weights[name] = Ternary.pack(rng.integers(-1, 2, shape), 2.0 ** -int(rng.integers(4)))
        else:
            kind = np.float32 if name.endswith("norm.weight") else np.float16
            weights[name] = (rng.integers(-64, 64, shape) / 32).astype(kind)
    return weights


def assert_same(checkpoint, weights):
    assert set(checkpoint.weights) == set(weights)
    for name, value in weights.items():
        found = checkpoint.weights[name]
        if isinstance(value, Ternary):
            assert np.array_equal(found.packed, value.packed), name
            assert found.scale == value.scale, name
        else:
            assert found.dtype == value.dtype, name
            assert np.array_equal(found, value), name


@pytest.mark.parametrize("linear_class", ["autobitlinear", "bitlinear", None])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_packed_folder(tmp_path, linear_class, tied, shards):
    """Without a class `bitlinear` is meant, as transformers has it."""
    config = replace(CONFIG, tie_word_embeddings=tied)
    weights = random_weights(config)
    keys = config_keys(config, **({"linear_class": linear_class} if linear_class else {}))
    tensors = stored(weights, linear_class or "bitlinear")
    folder = write_folder(tmp_path, tensors, keys, config.vocab_size, shards)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config == config
    assert_same(checkpoint, weights)


def test_the_keys_of_transformers_5(tmp_path):
    keys = config_keys(CONFIG, **AUTO)
    del keys["rope_theta"]
    keys["rope_parameters"] = {"rope_theta": 1234.5, "rope_type": "default"}
    tensors = stored(random_weights(), "autobitlinear")
    folder = write_folder(tmp_path, tensors, keys, CONFIG.vocab_size)
    assert load_checkpoint(folder).config == replace(CONFIG, rope_theta=1234.5)
    assert load_checkpoint(folder, "silu").config.hidden_act == "silu"


@pytest.mark.parametrize("store", [bf16, plain])
def test_masters_become_ternary(tmp_path, store):
    rng = np.random.default_rng(1)
    tensors, wanted = {}, {}
    for name, value in random_weights().items():
        if not isinstance(value, Ternary):
            tensors[f"model.{name}"] = bf16(value)
            continue
        bits = rng.standard_normal(value.shape).astype(np.float32).view(np.uint32)
        master = (bits & np.uint32(0xFFFF0000)).view(np.float32)
        tensors[f"model.{name}"] = store(master)
        mean = np.abs(master.astype(np.float64)).mean()
        wanted[name] = (np.clip(np.round(master / mean), -1, 1), mean)
    folder = write_folder(tmp_path, tensors, config_keys(CONFIG), CONFIG.vocab_size)
    weights = load_checkpoint(folder).weights
    for name, (codes, mean) in wanted.items():
        assert np.array_equal(weights[name].codes(), codes)
        assert weights[name].scale == pytest.approx(mean, rel=1e-6)


def test_a_master_of_zeros_is_zero():
    ternary = ternarize(np.zeros((4, 128), np.float32))
    assert not ternary.codes().any()
    assert ternary.scale == pytest.approx(1e-5)


def test_halves_go_to_the_even_code():
    """|w| / mean = 0.5 and 1.5: to 0, and to 2, which is clipped."""
    ternary = ternarize(np.array([[0.5, -0.5, 1.5, -1.5]], np.float32))
    assert ternary.codes().tolist() == [[0, 0, 1, -1]]


def test_a_table_too_large_for_float16_stays_float32(tmp_path):
    weights = random_weights()
    weights["embed_tokens.weight"][5, 5] = 0
    tensors = stored(weights, "autobitlinear")
    table = weights["embed_tokens.weight"].astype(np.float32)
    table[5, 5] = 2.0**20
    tensors["model.embed_tokens.weight"] = bf16(table)
    folder = write_folder(tmp_path, tensors, config_keys(CONFIG, **AUTO), CONFIG.vocab_size)
    found = load_checkpoint(folder).weights["embed_tokens.weight"]
    assert found.dtype == np.float32
    assert np.array_equal(found, table)


TEXTS = ["", "the time of", "  two\n\nlines 12345 é 漢字 🙂", "<|eot_id|> is text", "\t\r\n x"]


def test_the_tokenizer(tmp_path):
    keys = config_keys(CONFIG, **AUTO)
    tensors = stored(random_weights(), "autobitlinear")
    folder = write_folder(tmp_path, tensors, keys, CONFIG.vocab_size)
    ours = Tokenizer.from_metadata(load_checkpoint(folder).metadata, "")
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        assert ours.encode(text, parse_special=True) == theirs.encode(text).ids
    last = CONFIG.vocab_size - 1
    assert (ours.bos_id, ours.eos_id) == (last - 2, last - 1)
    assert ours.stop_ids == {last - 1, last}
    assert ours.add_bos


@pytest.mark.parametrize("template", [["<|begin_of_text|>"], []])
def test_bos_as_the_post_processor_has_it(tmp_path, template):
    tensors = stored(random_weights(), "autobitlinear")
    folder = write_folder(tmp_path, tensors, config_keys(CONFIG, **AUTO), CONFIG.vocab_size)
    path = folder / "tokenizer.json"
    made = tokenizers.Tokenizer.from_file(str(path))
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=[*template, "$A"],
        special_tokens=[("<|begin_of_text|>", CONFIG.vocab_size - 3)] if template else [],
    )
    path.write_text(made.to_str())
    assert Tokenizer.from_metadata(load_checkpoint(folder).metadata, "").add_bos == bool(template)
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": not template}))
    assert Tokenizer.from_metadata(load_checkpoint(folder).metadata, "").add_bos != bool(template)


# The real one


@pytest.fixture(scope="module")
def mini_hf(shared: Path) -> Checkpoint:
    folder = shared / "models" / "mini" / "hf"
    if not folder.is_dir():
        pytest.skip("needs ../shared/models/mini/hf (not part of the repository)")
    return load_checkpoint(folder)


def test_mini_is_the_model_of_the_gguf_file(mini: Checkpoint, mini_hf: Checkpoint) -> None:
    """Its scales are the file's, rounded to bf16; everything else is equal."""
    assert mini_hf.config == mini.config
    assert list(mini_hf.weights) == list(mini.weights)
    for name, value in mini.weights.items():
        found = mini_hf.weights[name]
        if isinstance(value, Ternary):
            assert np.array_equal(found.packed, value.packed), name
            assert abs(found.scale / value.scale - 1) <= 2**-8, name
        else:
            assert found.dtype == value.dtype, name
            assert np.array_equal(found, value), name


def test_minis_tokens_are_those_of_the_gguf_file(
    mini: Checkpoint, mini_hf: Checkpoint, shared: Path
) -> None:
    ours, theirs = (Tokenizer.from_metadata(c.metadata, "") for c in (mini_hf, mini))
    text = (shared / "data" / "roleplay_eval.json").read_text()
    assert ours.encode(text) == theirs.encode(text)
    assert [ours.encode(text, bos=ours.add_bos) for text in TEXTS] == [
        theirs.encode(text, bos=theirs.add_bos) for text in TEXTS
    ]
    assert (ours.bos_id, ours.eos_id, ours.stop_ids) == (
        theirs.bos_id, theirs.eos_id, theirs.stop_ids,
    )  # fmt: skip


def test_minis_logits_within_the_noise(mini_hf: Checkpoint, reference: Arrays) -> None:
    graph = logits_graph(mini_hf.config, 192)
    program = loaded(NumpyBackend(), mini_hf).compile(graph)
    logits = program.run(feeds(graph, batch(reference, 0)))["logits"]
    wanted = reference["quant|logits_bf16_scales"].reshape(192, -1)
    error = np.abs(logits - wanted)[mask(reference, 0)].max() / np.abs(wanted).max()
    assert error <= 3 * float(reference["quant|noise|logits"])


# What is wrong


@pytest.fixture
def refused(tmp_path):
    """Write a folder with a change; the one sentence of the refusal, which names the folder."""

    def run(keys=lambda keys: None, tensors=lambda tensors: None, files=lambda folder: None):
        all_keys, all_tensors = config_keys(CONFIG, **AUTO), stored(random_weights(), AUTO)
        keys(all_keys)
        tensors(all_tensors)
        folder = write_folder(tmp_path / "model", all_tensors, all_keys, CONFIG.vocab_size)
        files(folder)
        with pytest.raises(BitgraphError) as caught:
            dict(load_checkpoint(folder).weights)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model_type", "llama", "model_type is 'llama'"),
        ("hidden_size", None, "hidden_size is missing"),
        ("hidden_size", "64", "not a number"),
        ("hidden_size", 64.5, "not a size"),
        ("hidden_size", 10**30, "not a size"),
        ("hidden_size", 68, "head_dim"),
        ("num_hidden_layers", 10**9, "only 38 tensors"),
        ("num_hidden_layers", 1, "is not part of a BitNet model"),
        ("vocab_size", 10**9, "calls for [1000000000, 64]"),
        ("intermediate_size", 98, "calls for [98]"),
        ("tie_word_embeddings", False, "'lm_head.weight' is missing"),
        ("hidden_act", "gelu", "hidden_act"),
        ("attention_bias", True, "attention_bias"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 2}, "yarn"),
        ("quantization_config", None, "quantization_config"),
        ("quantization_config", {"quant_method": "gptq"}, "quantization_config"),
        ("quantization_config", {"quant_method": "bitnet", "linear_class": "x"}, "linear_class"),
        ("quantization_config", {"quant_method": "bitnet", "use_rms_norm": True}, "use_rms_norm"),
        ("bos_token_id", None, "bos_token_id"),
        ("eos_token_id", [], "eos_token_id"),
    ],
)
def test_a_config_that_cannot_be(refused, key, value, said):
    assert said in refused(keys=lambda keys: keys.update({key: value}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(UP), f"{UP!r} is missing"),
        (lambda t: t.pop(f"{UP}_scale"), f"'{UP}_scale' is missing"),
        (lambda t: t.update({"model.extra": bf16([1])}), "'model.extra'"),
        (lambda t: t.update({UP: plain(np.zeros((24, 63), np.uint8))}), "has shape [24, 63]"),
        (lambda t: t.update({UP: plain(np.zeros((24, 64), np.int8))}), "type I8"),
        (lambda t: t.update({UP: plain(np.full((24, 64), 192, np.uint8))}), "code 3"),
        (lambda t: t.update({f"{UP}_scale": bf16([0])}), "is 0.0, not a positive"),
        (lambda t: t.update({f"{UP}_scale": bf16([np.inf])}), "is inf"),
        (lambda t: t.update({f"{UP}_scale": bf16([1, 1])}), "must be one float"),
        (lambda t: t.update({"model.norm.weight": bf16(np.full(64, np.nan))}), "not finite"),
        (lambda t: t.update({UP: bf16(np.full((96, 64), np.nan))}), "not finite"),
        (lambda t: t.update({"model.norm.weight": plain(np.ones(64, np.int32))}), "type I32"),
    ],
)
def test_tensors_that_cannot_be(refused, change, said):
    assert said in refused(tensors=change)


def test_rows_that_cannot_be_packed(refused):
    def narrow(tensors):
        for layer in range(2):
            tensors[f"model.layers.{layer}.mlp.ffn_sub_norm.weight"] = bf16(np.ones(98))

    said = refused(keys=lambda keys: keys.update(intermediate_size=98), tensors=narrow)
    assert "98 rows are no multiple of 4" in said


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\xff", b"[]", b"[" * 10**5])
def test_a_file_that_is_missing_or_damaged(refused, name, content):
    def spoil(folder):
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)

    refused(files=spoil)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["model"].update(type="Unigram"), "not BPE"),
        (lambda t: t.update(normalizer={"type": "NFC"}), "normalizer"),
        (lambda t: t.update(pre_tokenizer={"type": "ByteLevel"}), "pre_tokenizer"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "x"}), "Llama"),
        (lambda t: t["model"]["vocab"].update(zzz=10**6), "no token"),
        (lambda t: t["model"]["vocab"].update(zzz=3), "no token"),
        (lambda t: t["model"]["vocab"].update(zzz="3"), "whole number"),
        (lambda t: t["model"].update(merges=[["a"]]), "two tokens"),
        (lambda t: t["model"].update(merges=None), "merges is missing"),
        (lambda t: t["added_tokens"].append({"id": 300, "content": "<x>"}), "301 tokens"),
    ],
)
def test_a_tokenizer_that_cannot_be(refused, change, said):
    def spoil(folder):
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    assert said in refused(files=spoil)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({}, "weight_map"),
        ({"weight_map": {"model.norm.weight": "../secret.safetensors"}}, "not a name"),
        ({"weight_map": {"model.norm.weight": 3}}, "not a name"),
        ({"weight_map": {"model.norm.weight": "a.safetensors"}}, "a.safetensors is missing"),
        ({"weight_map": {"model.absent": "model.safetensors"}}, "'model.absent'"),
    ],
)
def test_an_index_that_cannot_be(refused, index, said):
    def write(folder):
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert said in refused(files=write)


def test_a_tensor_in_two_files(refused):
    def write(folder):
        (folder / "b.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        index = {"weight_map": {"model.norm.weight": "b.safetensors", UP: "model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert "too" in refused(files=write)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tensors = stored(random_weights(), "autobitlinear")
    keys = config_keys(CONFIG, **AUTO)
    return write_folder(tmp_path_factory.mktemp("fuzz"), tensors, keys, CONFIG.vocab_size)


def loads_or_says(folder):
    """None if all of the model is read and fits together, else the sentence."""
    try:
        checkpoint = load_checkpoint(folder)
        shapes = {name: weight.shape for name, weight in checkpoint.weights.items()}
        Tokenizer.from_metadata(checkpoint.metadata, str(folder))
    except BitgraphError as error:
        return str(error)
    assert shapes == weight_shapes(checkpoint.config)
    return None


@settings(max_examples=150)
@given(
    name=st.sampled_from(["config.json", "tokenizer.json", "model.safetensors"]),
    flips=st.lists(st.tuples(st.integers(0, 2**14), st.integers(1, 255)), max_size=4),
    length=st.none() | st.integers(0, 2**17),
)
def test_any_damage_ends_in_a_model_or_a_sentence(folder, name, flips, length):
    path = folder / name
    before = path.read_bytes()
    content = bytearray(before)
    for position, mask_ in flips:
        content[position % len(content)] ^= mask_
    path.write_bytes(content[:length])
    try:
        said = loads_or_says(folder)
    finally:
        path.write_bytes(before)
    assert said is None or (str(folder) in said and len(said.splitlines()) == 1)
