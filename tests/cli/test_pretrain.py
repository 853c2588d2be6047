"""`bitgraph pretrain`: a model from nothing, its tokenizer, its file, and going on with a run."""

import json
import math
import os
import signal

import numpy as np
import pytest
from bitgraph.backends.numpy.backend import NumpyProgram
from bitgraph.graph.tensors import Ternary
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.tokenizer import Tokenizer
from bitgraph.models.corpus.corpus import make_corpus
from bitgraph.models.corpus.saving import corpus_files, save_corpus
from runs import files_of, read_metrics
from safetensors.numpy import load_file

SIZE = ("--preset", "tiny", "--layers", 1, "--vocab-size", 400)
STEPS = ("--tokens-per-step", 512, "--max-seq-len", 96, "--lr", 5e-3, "--warmup", 2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Files with 300 records to train on."""
    folder = tmp_path_factory.mktemp("corpus")
    save_corpus(folder, make_corpus(0, 300))
    return corpus_files(folder)


@pytest.fixture
def pretrain(bitgraph, corpus, tmp_path):
    """Pretrain into a file of that name."""

    def run(name, *options):
        places = ("--data", corpus["train"], "--out", tmp_path / name)
        return bitgraph("pretrain", *places, "--backend", "numpy", *SIZE, *STEPS, *options)

    return run


def events(folder, kind):
    return [record for record in read_metrics(folder) if record["event"] == kind]


def test_the_loss_falls_and_the_file_is_the_model(pretrain, bitgraph, corpus, tmp_path):
    held_out = ("--eval-data", corpus["eval"])
    result = pretrain("m.gguf", *held_out, "--epochs", 2, "--eval-steps", 1000)
    assert result.code == 0, result.err
    assert result.out == ""
    folder = tmp_path / "m-run"
    before, after = events(folder, "eval")
    assert before["loss"] == pytest.approx(math.log(400), abs=0.4)
    assert after["loss"] < before["loss"] - 1
    checkpoint = load_checkpoint(tmp_path / "m.gguf")
    weights = checkpoint.weights
    assert (checkpoint.config.num_hidden_layers, checkpoint.config.vocab_size) == (1, 400)
    assert isinstance(weights["layers.0.mlp.up_proj.weight"], Ternary)
    assert weights["embed_tokens.weight"].dtype == np.float16
    common = ("--template", "bitnet-chat", "--max-seq-len", 96, "--backend", "numpy")
    out = tmp_path / "losses.jsonl"
    data = ("--data", corpus["eval"], "--out", out)
    taken = bitgraph("eval", "--model", tmp_path / "m.gguf", *data, *common)
    assert taken.code == 0, taken.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    total = sum(row["loss_without"] * row["tokens"] for row in rows)
    loss = total / sum(row["tokens"] for row in rows)
    assert loss == pytest.approx(after["loss"], rel=1e-3)  # the file's embedding is in f16
    assert loss != pytest.approx(before["loss"], rel=1e-2)


def test_the_file_holds_a_tokenizer_made_for_the_data(pretrain, corpus, tmp_path):
    assert pretrain("m.gguf", "--max-steps", 1).code == 0
    metadata = load_checkpoint(tmp_path / "m.gguf").metadata
    tokenizer = Tokenizer.from_metadata(metadata, "m")
    assert tokenizer.vocab_size == 400
    assert set(tokenizer.special_ids) == {"<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"}
    assert tokenizer.special_ids["<|eot_id|>"] in tokenizer.stop_ids
    text = "\n".join(record["instruction"] for record in json.loads(corpus["eval"].read_text()))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) < 0.7 * len(text.encode())
    strange = "\u00e9\U0001f600\x00 <|eot_id|>"
    assert tokenizer.decode(tokenizer.encode(strange)) == strange


def test_all_weights_are_trained_in_float(pretrain, tmp_path):
    assert pretrain("m.gguf", "--max-steps", 2, "--weight-decay", 0).code == 0
    (folder,) = (tmp_path / "m-run" / "checkpoints").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "masters.safetensors", "optimizer.safetensors", "run.json",
    }  # fmt: skip
    masters, state = (
        load_file(folder / f"{name}.safetensors") for name in ("masters", "optimizer")
    )
    weights = load_checkpoint(tmp_path / "m.gguf").weights
    assert set(masters) == set(weights)
    for name, master in masters.items():
        assert master.dtype == np.float32
        assert np.any(state[f"{name}.m"]), name
        stored = weights[name]
        if isinstance(stored, Ternary):
            scale = np.abs(master).mean(dtype=np.float64)
            assert stored.scale == pytest.approx(scale, rel=1e-6)
            away = np.abs(np.abs(master / scale) - 0.5) > 1e-5  # from where rounding turns
            rounded = np.clip(np.rint(master / scale), -1, 1)
            np.testing.assert_array_equal(stored.codes()[away], rounded[away])
        else:
            np.testing.assert_allclose(stored, master, rtol=1e-3, atol=1e-6)


def test_norms_and_the_embedding_are_not_decayed(pretrain, tmp_path):
    found = []
    for name, decay in (("a", 0), ("b", 20)):
        assert pretrain(f"{name}.gguf", "--max-steps", 1, "--weight-decay", decay).code == 0
        (folder,) = (tmp_path / f"{name}-run" / "checkpoints").iterdir()
        found.append(load_file(folder / "masters.safetensors"))
    plain, decayed = found
    for name, master in plain.items():
        assert np.array_equal(master, decayed[name]) == name.endswith(
            ("norm.weight", "embed_tokens.weight")
        ), name


def test_a_run_that_was_stopped_goes_on_in_the_same_bits(pretrain, monkeypatch, tmp_path):
    steps = ("--max-steps", 6, "--save-steps", 2)
    assert pretrain("whole.gguf", *steps).code == 0
    original, begun = NumpyProgram.start, iter(range(1, 1000))

    def pressed(self, number=1):
        if next(begun) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, number)

    monkeypatch.setattr(NumpyProgram, "start", pressed)
    stopped = pretrain("part.gguf", *steps)
    assert stopped.code == 130
    assert f"model of step 3 written to {tmp_path / 'part.gguf'}" in stopped.err
    assert load_checkpoint(tmp_path / "part.gguf").config.num_hidden_layers == 1
    resumed = pretrain("part.gguf", *steps, "--resume")
    assert resumed.code == 0, resumed.err
    assert "going on behind step 3 of 6" in resumed.err

    def kept(name):
        folder = files_of(tmp_path / f"{name}-run" / "checkpoints" / "step-00000006")
        return load_checkpoint(tmp_path / f"{name}.gguf").weights, folder

    (first, one), (second, two) = kept("whole"), kept("part")
    assert one["masters.safetensors"] == two["masters.safetensors"]
    assert one["optimizer.safetensors"] == two["optimizer.safetensors"]
    for name, weight in first.items():
        if isinstance(weight, Ternary):
            assert weight.packed.tobytes() == second[name].packed.tobytes()


def test_the_seed_decides_what_it_begins_with(pretrain, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert pretrain(f"{name}.gguf", "--max-steps", 1, "--seed", seed).code == 0
    tables = [
        np.asarray(load_checkpoint(tmp_path / f"{n}.gguf").weights["embed_tokens.weight"])
        for n in "abc"
    ]
    assert np.array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])


def test_text_is_trained_too(bitgraph, tmp_path):
    text = tmp_path / "data.txt"
    text.write_text("The sea is wide and the hill is high.\n" * 60)
    out = tmp_path / "m.gguf"
    result = bitgraph(
        "pretrain", "--data", text, "--out", out, "--backend", "numpy",
        *SIZE, *STEPS, "--max-steps", 1,
    )  # fmt: skip
    assert result.code == 0, result.err
    vocabulary = load_checkpoint(out).config.vocab_size
    assert 259 < vocabulary < 400  # there is no more to merge
    assert f"{vocabulary:,} tokens" in result.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--vocab-size", 100), "vocab-size is 100, but bytes and special tokens alone are 259"),
        (("--layers", 0), "num_hidden_layers must be positive, not 0"),
        (("--max-seq-len", 513), "the model's context is 512; choose a smaller --max-seq-len"),
        (("--seed", -1), "seed (-1) must not be negative"),
        (("--template", "absent.jinja"), "the template absent.jinja cannot be read"),
        (("--data", "absent.json"), "absent.json cannot be read"),
        (("--eval-split", 0.5, "--eval-data", "x"), "two ways to one thing"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(pretrain, tmp_path, options, said):
    result = pretrain("m.gguf", *options)
    assert result.code == 2
    assert said in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    assert not (tmp_path / "m.gguf").exists()


def test_what_a_run_made_is_not_written_over(pretrain, tmp_path):
    out = tmp_path / "m.gguf"
    assert pretrain("m.gguf", "--max-steps", 1, "--save-steps", 0).code == 0
    before = out.read_bytes()
    again = pretrain("m.gguf", "--max-steps", 1)
    assert again.code == 2
    assert f"{out} already holds a model; choose another --out" in again.err
    resumed = pretrain("m.gguf", "--max-steps", 1, "--resume")
    assert resumed.code == 2
    assert "holds a model but no checkpoint to go on from" in resumed.err
    assert out.read_bytes() == before
    forced = pretrain("m.gguf", "--max-steps", 1, "--seed", 5, "--force")
    assert forced.code == 0, forced.err
    assert out.read_bytes() != before


def test_a_damaged_checkpoint_is_refused(pretrain, tmp_path):
    assert pretrain("m.gguf", "--max-steps", 1).code == 0
    (folder,) = (tmp_path / "m-run" / "checkpoints").iterdir()
    file = folder / "masters.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    result = pretrain("m.gguf", "--max-steps", 1, "--resume")
    assert result.code == 2
    assert f"the checkpoint {folder} is damaged" in result.err.splitlines()[-1]


def test_a_run_may_begin_with_a_model(pretrain, corpus, tmp_path):
    held_out = ("--eval-data", corpus["eval"], "--max-steps", 2, "--eval-steps", 1000)
    assert pretrain("a.gguf", *held_out).code == 0
    result = pretrain("b.gguf", "--init", tmp_path / "a.gguf", *held_out)
    assert result.code == 0, result.err
    _, reached = events(tmp_path / "a-run", "eval")
    begun, _ = events(tmp_path / "b-run", "eval")
    assert begun["loss"] == pytest.approx(reached["loss"], abs=1e-3)
    first, second = (load_checkpoint(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    assert first.tokenizer.keys() == second.tokenizer.keys()
    for key, value in first.tokenizer.items():
        assert np.array_equal(value, second.tokenizer[key]), key
    assert first.config == second.config
