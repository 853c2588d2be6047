"""`bitgraph export`, `import` and `merge`."""

import re

import numpy as np
import pytest
from bitgraph.models.adapters.lora import LoraAdapter, initial_tensors
from bitgraph.models.adapters.peft import load_adapter, save_adapter
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.config import projection_shapes
from bitgraph.models.gguf import read_gguf


@pytest.fixture
def adapter(model, tmp_path):
    """A folder with a trained adapter for q_proj and v_proj."""
    targets = ("q_proj", "v_proj")
    shapes = projection_shapes(load_checkpoint(model).config)
    chosen = {module: shape for module, shape in shapes.items() if module.endswith(targets)}
    tensors = initial_tensors(chosen, 2, seed=0)
    rng = np.random.default_rng(0)
    tensors = {n: t + rng.standard_normal(t.shape, np.float32) for n, t in tensors.items()}
    save_adapter(tmp_path / "adapter", LoraAdapter(2, 4.0, targets, tensors, "the/base"))
    return tmp_path / "adapter"


@pytest.mark.parametrize("kind", ["peft", "gguf", "hesper"])
def test_export_and_import(bitgraph, model, adapter, tmp_path, kind):
    result = bitgraph("export", adapter, "--to", kind, "-o", tmp_path / "there", "--model", model)
    assert result.code == 0, result.err
    assert "rank 2, alpha 4, 4 modules" in result.out
    assert ("the/base" in result.out) == (kind != "peft")
    result = bitgraph("import", tmp_path / "there", "-o", tmp_path / "back", "--model", model)
    assert result.code == 0, result.err
    before, after = load_adapter(adapter), load_adapter(tmp_path / "back")
    assert (after.rank, after.alpha, after.modules) == (2, 4.0, before.modules)
    for name, tensor in before.tensors.items():
        assert tensor.tobytes() == after.tensors[name].tobytes()


def test_the_architecture_is_the_models(bitgraph, model, adapter, tmp_path):
    bitgraph("export", adapter, "--to", "gguf", "-o", tmp_path / "a.gguf", "--model", model)
    keys = read_gguf(tmp_path / "a.gguf").metadata
    assert keys["general.architecture"] == read_gguf(model).metadata["general.architecture"]


def test_nothing_is_replaced_unasked(bitgraph, adapter, tmp_path):
    (tmp_path / "file").write_text("precious")
    arguments = ("export", adapter, "--to", "gguf", "-o", tmp_path / "file")
    result = bitgraph(*arguments)
    assert result.code == 2
    assert "--force" in result.err
    assert (tmp_path / "file").read_text() == "precious"
    assert bitgraph(*arguments, "--force").code == 0


def test_hespers_widths_come_from_the_model(bitgraph, model, adapter, tmp_path):
    bitgraph("export", adapter, "--to", "hesper", "-o", tmp_path / "a.bin")
    result = bitgraph("import", tmp_path / "a.bin", "-o", tmp_path / "back")
    assert result.code == 2
    assert "--model" in result.err
    assert not (tmp_path / "back").exists()


def test_inspect_shows_hespers_file(bitgraph, model, adapter, tmp_path):
    """The same facts as of the folder it was exported from, but for the base model's name."""
    bitgraph("export", adapter, "--to", "hesper", "-o", tmp_path / "a.bin")
    shown, wanted = (
        bitgraph("inspect", place, "--tensors", *options).out.partition("base model")[2]
        for place, options in ((tmp_path / "a.bin", ("--model", model)), (adapter, ()))
    )
    assert shown.split()[0] == "unknown"
    assert wanted.split()[0] == "the/base"
    assert sorted(shown.split()[1:]) == sorted(wanted.split()[1:])
    assert shown.count(".lora_A.weight") == 4
    result = bitgraph("inspect", tmp_path / "a.bin")
    assert result.code == 2
    assert "--model" in result.err


@pytest.mark.parametrize("kind", ["gguf", "hesper"])
def test_an_adapter_generates_in_any_format(bitgraph, model, adapter, tmp_path, kind):
    bitgraph("export", adapter, "--to", kind, "-o", tmp_path / "there")
    ask = ("generate", "--backend", "numpy", "--model", model, "the time", "--max-tokens", 8)
    texts = [bitgraph(*ask, "--lora", path).out for path in (adapter, tmp_path / "there")]
    assert texts[0] == texts[1] != bitgraph(*ask).out


def test_merging_is_refused_with_its_error(bitgraph, model, adapter):
    result = bitgraph("merge", adapter, "--model", model)
    assert result.code == 2
    assert result.err.count("\n") == 1
    times = [float(number) for number in re.findall(r"([0-9.]+) times", result.err)]
    assert len(times) == 2
    assert min(times) > 0.1
    assert "--lora" in result.err
