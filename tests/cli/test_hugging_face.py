"""Commands on a Hugging Face folder do what they do on the GGUF file of the same model."""

from dataclasses import replace

import numpy as np
import pytest
from bitgraph.graph.tensors import Ternary
from bitgraph.models.adapters.peft import load_adapter
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.gguf_checkpoint import save_checkpoint
from hf_folders import config_keys, stored, write_folder


def as_bf16(array):
    """A value that BF16 can hold."""
    bits = array.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(array.dtype)


@pytest.fixture
def both(model, tmp_path):
    """The same model as a folder and as a file."""
    checkpoint = load_checkpoint(model)
    weights = {
        name: replace(value, scale=0.25) if isinstance(value, Ternary) else as_bf16(value)
        for name, value in checkpoint.weights.items()
    }
    keys = config_keys(checkpoint.config, linear_class="bitlinear")
    vocab_size = checkpoint.config.vocab_size
    folder = write_folder(tmp_path / "hf", stored(weights, "bitlinear"), keys, vocab_size, shards=2)
    file = tmp_path / "same.gguf"
    tokenizer = {k: v for k, v in checkpoint.metadata.items() if k.startswith("tokenizer.")}
    save_checkpoint(file, checkpoint.config, weights, tokenizer)
    return folder, file


def test_a_hugging_face_folder_is_trained_like_the_file(bitgraph, both, data, tmp_path):
    """The same losses and the same adapter, bit for bit."""
    folder, file = both
    for name, path in (("of_folder", folder), ("of_file", file)):
        result = bitgraph(
            "train", "--model", path, "--data", data, "--out", tmp_path / name,
            "--backend", "numpy", "--max-steps", 2, "--batch-size", 3, "--lr", 1e-2,
        )  # fmt: skip
        assert result.code == 0, result.err
    first, second = (load_adapter(tmp_path / name) for name in ("of_folder", "of_file"))
    assert first.base_model == str(folder)
    assert replace(first, base_model="") == replace(second, base_model="")


def test_data_are_shown_alike(bitgraph, both, data):
    """With the tokenizer of either: the same tokens."""
    shown = []
    for path in both:
        options = ("--model", path, "--data", data, "--tokens", "-n", 2, "--no-cache")
        result = bitgraph("data", "preview", *options)
        assert result.code == 0, result.err
        shown.append(result.out)
    assert "«" in shown[0]
    assert shown[0] == shown[1]
