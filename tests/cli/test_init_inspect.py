import json
from pathlib import Path

import numpy as np
import pytest
from bitgraph.cli.init import init
from bitgraph.cli.inspect import inspect
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.adapters.lora import LoraAdapter, initial_tensors
from bitgraph.models.adapters.peft import save_adapter
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.config import projection_shapes
from bitgraph.models.bitnet.presets import PRESETS
from bitgraph.models.gguf import TensorSource, write_gguf
from click.testing import CliRunner
from safetensors.numpy import save_file


def run(command, *arguments):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(command, [str(a) for a in arguments])
    if isinstance(result.exception, BitgraphError):
        raise result.exception
    return result


def facts(output):
    """The lines of a table of facts as a mapping."""
    pairs = [line.strip().split("  ", 1) for line in output.splitlines() if "  " in line.strip()]
    return {key.strip(): value.strip() for key, value in pairs}


def test_init_writes_the_preset(tmp_path):
    path = tmp_path / "tiny.gguf"
    result = run(init, "--out", path)
    assert result.exit_code == 0
    assert load_checkpoint(path).config == PRESETS["tiny"]
    assert "361,856 parameters" in result.output
    assert f"{path.stat().st_size:,} bytes" in result.output


def test_init_overrides_the_geometry_and_seed(tmp_path):
    path = tmp_path / "model.gguf"
    options = ["--layers", 3, "--hidden-size", 256, "--intermediate-size", 384, "--heads", 8]
    options += ["--kv-heads", 4, "--context", 64, "--vocab-size", 300]
    assert run(init, "--out", path, *options, "--seed", 5).exit_code == 0
    config = load_checkpoint(path).config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (3, 256, 384)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 4, 32)
    assert (config.max_position_embeddings, config.vocab_size) == (64, 300)
    other = tmp_path / "other.gguf"
    run(init, "--out", other, *options, "--seed", 6)
    assert other.read_bytes() != path.read_bytes()


def test_init_replaces_a_file_only_when_told(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_text("precious")
    with pytest.raises(BitgraphError, match="--force"):
        run(init, "--out", path)
    assert path.read_text() == "precious"
    assert run(init, "--out", path, "--force").exit_code == 0
    assert load_checkpoint(path).config == PRESETS["tiny"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--layers", 0], "num_hidden_layers"),
        (["--hidden-size", 129], "hidden_size 129"),
        (["--vocab-size", 100], "vocab_size must be at least 259"),
    ],
)
def test_init_refuses_what_is_no_model(tmp_path, options, expected):
    with pytest.raises(BitgraphError, match=expected):
        run(init, "--out", tmp_path / "model.gguf", *options)
    assert list(tmp_path.iterdir()) == []


def test_init_into_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(BitgraphError, match="could not be written"):
        run(init, "--out", tmp_path / "missing" / "model.gguf")


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.gguf"
    run(init, "--out", path)
    return path


def test_inspect_shows_a_model(tiny):
    result = run(inspect, tiny)
    assert result.exit_code == 0
    shown = facts(result.output)
    assert shown["architecture"] == "bitnet-b1.58"
    assert shown["embedding_length"] == "128"
    assert shown["block_count"] == "2"
    assert shown["parameters"] == "361,856"
    assert shown["size"] == f"{tiny.stat().st_size:,} bytes"
    assert shown["tokenizer"] == "gpt2, 512 tokens"
    assert shown["merges"] == "253"
    assert shown["special tokens"] == "3"
    assert shown["bos token"] == "509 <|begin_of_text|>"
    assert shown["eos token"] == "510 <|end_of_text|>"
    # 2 layers of 4 norms and the last one; 2 layers of 7 matrices.
    assert shown["F32"].split() == ["9", "1,408", "5,632"]
    assert shown["F16"].split() == ["1", "65,536", "131,072"]
    assert shown["I2_S"].split() == ["14", "294,912", f"{294912 // 4 + 14 * 32:,}"]
    assert "blk.0" not in result.output


def test_inspect_lists_tensors(tiny):
    shown = facts(run(inspect, tiny, "--tensors").output)
    assert shown["blk.1.ffn_down.weight"].split("  ")[0] == "I2_S"
    assert "[128, 256]" in shown["blk.1.ffn_down.weight"]
    assert shown["token_embd.weight"].endswith("131,072")
    assert sum(name.startswith("blk.") for name in shown) == 22


def test_inspect_shows_a_hugging_face_folder(tmp_path):
    table, scale = np.zeros((4, 2), np.float32), np.ones(1, np.float32)
    save_file({"embed": table, "a": scale, "b": scale}, tmp_path / "model.safetensors")
    config = {"hidden_size": 2, "quantization_config": {"linear_class": "autobitlinear"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shown = facts(run(inspect, tmp_path, "--tensors").output)
    assert shown["hidden_size"] == "2"
    assert shown["linear_class"] == "autobitlinear"
    assert shown["F32"].split() == ["3", "10", "40"]
    assert shown["embed"].split() == ["F32", "[4,", "2]", "32"]


def test_inspect_shows_any_gguf_file_safely(tmp_path):
    path = tmp_path / "other.gguf"
    metadata = {
        "general.architecture": "other",
        "other.name": "[red]text[/red]\x1b[31m\n\u202e",
        "other.long": [],
        "tokenizer.ggml.tokens": ["a"],
        "tokenizer.ggml.bos_token_id": 7,
    }
    write_gguf(path, metadata, [TensorSource.of("[bold]t", np.zeros(3, np.float32))])
    output = run(inspect, path, "--tensors").output
    assert "[red]text[/red]\ufffd[31m\ufffd\ufffd" in output
    assert "[bold]t" in output
    assert "\x1b" not in output
    assert "bos token" not in output


def save_tiny_adapter(folder):
    shapes = projection_shapes(PRESETS["tiny"])
    shapes = {name: shape for name, shape in shapes.items() if name.endswith(("q_proj", "up_proj"))}
    adapter = LoraAdapter(4, 8.0, ("q_proj", "up_proj"), initial_tensors(shapes, 4, 0), "some/base")
    save_adapter(folder, adapter)


@pytest.mark.parametrize("name", ["", "adapter_model.safetensors"])
def test_inspect_shows_an_adapter(tmp_path, name):
    folder = tmp_path / "adapter"
    save_tiny_adapter(folder)
    shown = facts(run(inspect, folder / name, "--tensors").output)
    assert shown["rank"] == "4"
    assert shown["alpha"] == "8"
    assert shown["scaling"] == "2"
    assert shown["base model"] == "some/base"
    assert set(shown["target modules"].split(", ")) == {"q_proj", "up_proj"}
    assert shown["tensors"] == "8"
    assert shown["parameters"] == f"{2 * 4 * (128 + 128 + 128 + 256):,}"
    assert shown["layers.1.mlp.up_proj.lora_B.weight"] == "[256, 4]"


def test_inspect_refuses_what_is_neither(tmp_path):
    with pytest.raises(BitgraphError, match="missing could not be read"):
        run(inspect, tmp_path / "missing")
    with pytest.raises(BitgraphError, match=r"adapter_config\.json"):
        run(inspect, tmp_path)
    text = Path(tmp_path / "notes.txt")
    text.write_text("not a model")
    with pytest.raises(BitgraphError, match="not a GGUF file"):
        run(inspect, text)
