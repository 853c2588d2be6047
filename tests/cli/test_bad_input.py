"""Bad input ends with one sentence and status 2, and writes nothing."""

import json
import math
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bitgraph.models.adapters.lora import LoraAdapter, initial_tensors
from bitgraph.models.adapters.peft import load_adapter, save_adapter
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.config import projection_shapes
from runs import RECORDS, files_of, read_metrics

TL2 = 39
QUICK = ("--backend", "numpy", "--rank", 4, "--batch-size", 3, "--max-steps", 2)


def refusal(result):
    """The one sentence of a refused command."""
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("bitgraph: ")
    assert result.err.endswith("\n")
    assert result.err.count("\n") == 1
    return result.err


@pytest.fixture
def train(bitgraph, model, data, tmp_path):
    """Train with some options replaced; nothing may come to exist where the adapter would lie."""

    def run(*options, **paths):
        out = tmp_path / "out"
        given = {"model": model, "data": data, "out": out, **paths}
        places = [part for name, path in given.items() for part in (f"--{name}", path)]
        result = bitgraph("train", *places, *QUICK, *options)
        assert not out.exists()
        return refusal(result)

    return run


@pytest.fixture
def damaged(model, tmp_path):
    """A copy of the model with other bytes at some places."""

    def make(change):
        path = tmp_path / "damaged.gguf"
        content = bytearray(model.read_bytes())
        change(content)
        path.write_bytes(content)
        return path

    return make


# Models


def test_no_model(train, tmp_path):
    path = tmp_path / "missing.gguf"
    assert str(path) in train(model=path)


def test_a_folder_as_model(train, tmp_path):
    assert str(tmp_path) in train(model=tmp_path)


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.3, 0.999])
def test_a_truncated_model(train, damaged, share):
    def cut(content):
        del content[int(len(content) * share) :]

    path = damaged(cut)
    assert str(path) in train(model=path)


def test_a_model_that_is_something_else(train, data):
    assert "GGUF" in train(model=data)


def test_a_tensor_in_another_packing(train, model, damaged):
    """Its record: the name, the number of axes, their sizes, the type."""

    def retype(content):
        name = b"blk.0.ffn_up.weight"
        place = content.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
        (axes,) = struct.unpack_from("<I", content, place)
        struct.pack_into("<I", content, place + 4 + 8 * axes, TL2)

    said = train(model=damaged(retype))
    assert "TL2" in said
    assert "blk.0.ffn_up.weight" in said


def test_another_architecture(train, damaged):
    def rename(content):
        place = content.index(b"bitnet-b1.58")
        content[place : place + 12] = b"llama-b1.58x"

    said = train(model=damaged(rename))
    assert "architecture" in said or "bitnet" in said


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_a_scale_that_is_no_positive_number(train, model, damaged, scale):
    good = load_checkpoint(model).weights["layers.0.mlp.up_proj.weight"].scale

    def spoil(content):
        struct.pack_into("<f", content, content.index(struct.pack("<f", good)), scale)

    said = train(model=damaged(spoil))
    assert re.search(r"tensor '?blk\.\d", said)
    assert "scale" in said


# Data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("[{]", "is not JSON"),
        ('{"question": "a", "answer": "b"}', "none of the fields"),
        ("3", "not a JSON array"),
        ("[]", "no records"),
        ('[{"instruction": "a", "output": "b"}, {"instruction": "c"}]', "record 2 of 2"),
        ('[{"output": "b"}]', "'instruction'"),
        ('["text"]', "record 1"),
        ('[{"instruction": "a", "output": 7}]', "'output' is not a string"),
        ('[{"instruction": "a", "output": ""}]', "skipped"),
        ("[" * 100_000, "JSON"),
    ],
)
@pytest.mark.parametrize("option", ["data", "eval-data"])
def test_data_that_are_no_records(train, tmp_path, option, text, said):
    path = tmp_path / "records.json"
    path.write_text(text)
    assert said in train(**{option: path})


@pytest.mark.parametrize("option", ["data", "eval-data"])
def test_no_data(train, tmp_path, option):
    path = tmp_path / "missing.json"
    assert str(path) in train(**{option: path})
    assert str(tmp_path) in train(**{option: tmp_path})


def test_data_in_another_encoding(train, tmp_path):
    path = tmp_path / "records.json"
    path.write_text(json.dumps(RECORDS), encoding="utf-16")
    assert "UTF-8" in train(data=path)


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-seq-len", 513), "context"),
        (("--max-seq-len", 1), "max-seq-len"),
        (("--target", "q_proj,nose_proj"), "is not one of q_proj, k_proj"),
        (("--target", ""), "targets"),
        (("--target", "q_proj,q_proj"), "repeats"),
        (("--rank", 0), "rank"),
        (("--rank", -3), "rank"),
        (("--alpha", 0), "alpha"),
        (("--alpha", "nan"), "alpha"),
        (("--lr", -1), "lr"),
        (("--lr", "nan"), "lr"),
        (("--lr", "inf"), "lr"),
        (("--epochs", 0), "epochs"),
        (("--batch-size", 0), "batch-size"),
        (("--max-steps", -1), "max-steps"),
        (("--warmup", -1), "warmup"),
        (("--seed", -1), "seed"),
        (("--max-grad-norm", -0.1), "max-grad-norm"),
        (("--weight-decay", "nan"), "weight-decay"),
    ],
)
def test_an_option_out_of_range(train, options, said):
    assert said in train(*options)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--rank", "many"),
        ("train", "--learning-rate", 1),
        ("train",),
        ("generate", "--model", "m.gguf"),
        ("generate", "--model", "m.gguf", "--top-k", -1, "x"),
        ("generate", "--model", "m.gguf", "--top-k", 2**31, "x"),
        ("generate", "--model", "m.gguf", "--max-tokens", 0, "x"),
        ("generate", "--model", "m.gguf", "--backend", "abacus", "x"),
        ("init", "--preset", "huge", "--out", "m.gguf"),
        ("fly",),
    ],
)
def test_usage_errors(bitgraph, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    result = bitgraph(*arguments)
    assert result.code == 2
    assert "Usage: " in result.err
    assert "Error: " in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_keeps_the_last_good_adapter(bitgraph, model, data, tmp_path):
    out = tmp_path / "out"
    result = bitgraph(
        "train", "--model", model, "--data", data, "--out", out, *QUICK,
        "--lr", 1e30, "--warmup", 0, "--epochs", 10, "--max-steps", 9,
    )  # fmt: skip
    assert result.code == 2
    *_, last = result.err.splitlines()
    assert last.startswith("bitgraph: step ")
    assert "smaller --lr" in last
    assert all(math.isfinite(record.get("loss", 0)) for record in read_metrics(out))
    assert all(np.isfinite(tensor).all() for tensor in load_adapter(out).tensors.values())


def test_a_rate_beyond_the_floats_leaves_no_adapter(bitgraph, model, data, tmp_path):
    out = tmp_path / "out"
    result = bitgraph(
        "train", "--model", model, "--data", data, "--out", out, *QUICK,
        "--lr", 1e300, "--warmup", 0,
    )  # fmt: skip
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("bitgraph: ")
    assert "Warning" not in result.err
    assert not (out / "adapter_config.json").exists()


# Generation


@pytest.fixture
def generate(bitgraph, model):
    def run(*arguments):
        return refusal(bitgraph("generate", "--backend", "numpy", "--model", model, *arguments))

    return run


@pytest.fixture
def adapter(model, tmp_path):
    """A folder with an adapter for every projection, and a way to change its tensors."""

    def make(change=lambda tensors: None):
        shapes = projection_shapes(load_checkpoint(model).config)
        tensors = initial_tensors(shapes, 2, seed=0)
        change(tensors)
        names = tuple(sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in tensors}))
        save_adapter(tmp_path / "adapter", LoraAdapter(2, 2.0, names, tensors))
        return tmp_path / "adapter"

    return make


def test_a_prompt_longer_than_the_context(generate):
    said = generate("word " * 600)
    assert "context" in said
    assert "512" in said


def test_an_empty_prompt_begins_with_bos(bitgraph, model):
    """The model expects BOS, so there is something to continue."""
    result = bitgraph("generate", "--backend", "numpy", "--model", model, "", "--max-tokens", 1)
    assert result.code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--temperature", -1), "temperature"),
        (("--temperature", "nan"), "temperature"),
        (("--temperature", "inf"), "temperature"),
        (("--top-p", 0), "top-p"),
        (("--top-p", 1.1), "top-p"),
        (("--seed", -1), "seed"),
        (("--seed", 2**32), "seed"),
        (("\udcff",), "Unicode"),
    ],
)
def test_generation_options_out_of_range(generate, options, said):
    assert said in generate(*options, *(() if len(options) == 1 else ("hello",)))


def test_no_adapter(generate, tmp_path):
    assert str(tmp_path / "none") in generate("--lora", tmp_path / "none", "hello")


def test_an_adapter_without_tensors(generate, adapter):
    folder = adapter()
    (folder / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is missing" in generate("--lora", folder, "hello")


def test_a_damaged_adapter(generate, adapter):
    path = adapter() / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)
    assert "damaged" in generate("--lora", path.parent, "hello")
    path.write_bytes(content[: len(content) // 2])
    assert "damaged" in generate("--lora", path.parent, "hello")


def test_an_adapter_of_another_width(generate, adapter):
    def widen(tensors):
        name = "layers.0.self_attn.q_proj.lora_A.weight"
        tensors[name] = np.zeros((2, 128), np.float32)

    assert "layers.0.self_attn.q_proj" in generate("--lora", adapter(widen), "hello")


def test_an_adapter_of_a_deeper_model(generate, adapter):
    def deepen(tensors):
        for half in "AB":
            shallow = tensors[f"layers.1.mlp.up_proj.lora_{half}.weight"]
            tensors[f"layers.7.mlp.up_proj.lora_{half}.weight"] = shallow

    assert "layers.7.mlp.up_proj" in generate("--lora", adapter(deepen), "hello")


# The system: run apart, so that its limits and signals do not reach the tests.


def start(*arguments, **options):
    code = "from bitgraph.cli.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def limit_files(size):
    """Let no file grow beyond some bytes: what a full disk does, in the middle of a write."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def assert_stopped(done):
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("bitgraph: ")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_full_disk_keeps_the_old_adapter(bitgraph, model, data, tmp_path):
    out = tmp_path / "out"
    arguments = ("train", "--model", model, "--data", data, "--out", out, *QUICK)
    assert bitgraph(*arguments).code == 0
    before = files_of(out)
    done = start(*arguments, "--force", "--rank", 16, preexec_fn=limit_files(4096))
    assert_stopped(done)
    assert "could not be written" in done.stderr
    after = files_of(out)
    assert [path.name for path in (out / "checkpoints").glob("*")] == []
    events = "tensorboard/"  # every process has a file of its own
    known = {name for name in before if not name.startswith(events)}
    assert {name for name in after if not name.startswith(events)} <= known  # nothing partial
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert after[name] == before[name]


def test_a_disk_too_full_for_metrics(model, data, tmp_path):
    out = tmp_path / "out"
    done = start(
        "train", "--model", model, "--data", data, "--out", out, *QUICK, preexec_fn=limit_files(100)
    )
    assert_stopped(done)
    assert f"{out / 'config.toml'} could not be written" in done.stderr
    assert not (out / "config.toml").exists()


def test_a_disk_too_full_for_a_model(tmp_path):
    done = start("init", "--out", tmp_path / "m.gguf", preexec_fn=limit_files(10_000))
    assert_stopped(done)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["generate", "inspect", "opt"])
def test_output_that_goes_nowhere(model, tmp_path, command):
    graph = tmp_path / "graph.txt"
    graph.write_text("graph @g {\n  input %x: f32[4]\n  return %x\n}\n")
    arguments = {
        "generate": ("--backend", "numpy", "--model", model, "hello", "--max-tokens", 3),
        "inspect": (model,),
        "opt": (graph,),
    }
    code = "from bitgraph.cli.main import main; main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, command, *map(str, arguments[command])],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert_stopped(done)
    assert done.stderr.count("\n") == 1


@pytest.fixture
def mount(tmp_path):
    """Mount an empty file system in memory with the options given, on a folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def run(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a file system")
        mounted.append(folder)
        return folder

    yield run
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_has_no_room(bitgraph, model, data, mount):
    out = mount("size=32k") / "out"
    result = bitgraph("train", "--model", model, "--data", data, "--out", out, *QUICK)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("bitgraph: ")
    assert "No space left" in result.err
    left = {path.name for path in out.iterdir()}
    assert left <= {"config.toml", "metrics.jsonl", "report.html", "tensorboard"}


@pytest.fixture
def locked(request, tmp_path):
    """A folder that nothing can be written to, for root too."""
    if os.geteuid() == 0:
        return request.getfixturevalue("mount")("ro")
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    return folder


def test_a_read_only_folder(train, bitgraph, model, data, locked):
    for out in (locked, locked / "new"):
        result = bitgraph("train", "--model", model, "--data", data, "--out", out, *QUICK)
        assert str(out) in refusal(result)
    assert str(locked) in train("--dump-passes", locked)
    assert str(locked) in refusal(bitgraph("init", "--out", locked / "m.gguf"))
    assert list(locked.iterdir()) == []


def test_a_file_where_the_folder_should_be(train, tmp_path):
    file = tmp_path / "file"
    file.write_text("precious")
    assert str(file) in train(out=file)
    assert str(file / "below") in train(out=file / "below")
    assert str(file) in train("--dump-passes", file)
    assert file.read_text() == "precious"


def test_too_little_memory(bitgraph, model, data, tmp_path):
    result = bitgraph(
        "train", "--model", model, "--data", data, "--out", tmp_path / "out", "--rank", 10**12,
        "--backend", "numpy",
    )  # fmt: skip
    assert "memory" in refusal(result)
