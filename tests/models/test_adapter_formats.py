"""Adapters in the formats of llama.cpp and Hesper: there and back bit for bit, or one sentence."""

import math
import struct
from dataclasses import replace

import gguf
import numpy as np
import pytest
import tiny_model
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.tensors import Ternary
from bitgraph.models.adapters.formats import not_kept, read_adapter, write_adapter
from bitgraph.models.adapters.gguf import read_gguf_adapter
from bitgraph.models.adapters.hesper import read_hesper
from bitgraph.models.adapters.lora import LoraAdapter, initial_tensors
from bitgraph.models.adapters.merging import merge_error
from bitgraph.models.bitnet.config import PROJECTIONS, projection_shapes
from bitgraph.models.gguf import TensorSource, write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

CONFIG = replace(tiny_model.CONFIG, num_hidden_layers=12, architecture="bitnet", hidden_act="silu")
SHAPES = projection_shapes(CONFIG)
ALL = tuple(PROJECTIONS)


def made(targets=ALL, rank=3, alpha=6.0, shapes=SHAPES, **changes):
    """As after training: B is not zero."""
    rng = np.random.default_rng(rank)
    chosen = {m: s for m, s in shapes.items() if m.rsplit(".", 1)[1] in targets}
    tensors = {
        name: tensor + rng.standard_normal(tensor.shape, np.float32)
        for name, tensor in initial_tensors(chosen, rank, seed=0).items()
    }
    return LoraAdapter(rank, alpha, tuple(targets), tensors, **changes)


def bits(adapter):
    return {name: (t.shape, t.tobytes()) for name, t in adapter.tensors.items()}


@pytest.mark.parametrize(("kind", "targets"), [("gguf", ALL), ("hesper", ("q_proj", "v_proj"))])
@pytest.mark.parametrize(("rank", "alpha"), [(1, 0.1), (3, 6.0), (16, 1e-30)])
def test_there_and_back_again(tmp_path, kind, targets, rank, alpha):
    adapter = made(targets, rank, alpha, base_model="some/base")
    write_adapter(tmp_path / "file", adapter, kind, CONFIG)
    again = read_adapter(tmp_path / "file", CONFIG)
    assert bits(again) == bits(adapter)
    assert (again.rank, again.alpha, again.scaling) == (rank, alpha, adapter.scaling)
    assert again.modules == adapter.modules
    assert not_kept(adapter, kind) == ["the base model's name (some/base)"]


@pytest.mark.parametrize(("kind", "targets"), [("gguf", ALL), ("hesper", ("q_proj", "v_proj"))])
def test_rank_stabilized_scaling_keeps_its_factor(tmp_path, kind, targets):
    adapter = made(targets, rank=5, alpha=7.0, rslora=True)
    write_adapter(tmp_path / "file", adapter, kind, CONFIG)
    again = read_adapter(tmp_path / "file", CONFIG)
    assert again.scaling == pytest.approx(7 / math.sqrt(5), rel=1e-7)
    assert "rank-stabilized" in not_kept(adapter, kind)[0]


NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip


def test_the_gguf_file_as_the_gguf_library_reads_it(tmp_path):
    adapter = made()
    path = tmp_path / "adapter.gguf"
    write_adapter(path, adapter, "gguf", CONFIG)
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "bitnet"
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    assert fields["adapter.lora.alpha"] == 6.0
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert len(found) == 2 * len(SHAPES)
    for name, value in adapter.tensors.items():
        _, layer, _, module, half, _ = name.split(".")
        tensor = found[f"blk.{layer}.{NAMES[module]}.weight.{half.lower()}"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert tensor.shape.tolist() == list(value.shape[::-1])
        np.testing.assert_array_equal(tensor.data, value)


def test_the_bytes_of_hespers_file(tmp_path):
    """Against the layout spelled out with struct."""
    config = replace(CONFIG, num_hidden_layers=2)
    adapter = made(("q_proj", "v_proj"), 2, 4.0, projection_shapes(config))
    write_adapter(tmp_path / "file", adapter, "hesper")
    wanted = struct.pack("<IIIfII", 0x4C4F5241, 1, 2, 4.0, 2, 0)
    for layer in range(2):
        for short in "qv":
            for half in "AB":
                name = f"layers.{layer}.self_attn.{short}_proj.lora_{half}.weight"
                values = adapter.tensors[name].reshape(-1).tolist()
                wanted += struct.pack(f"<{len(values)}f", *values)
    assert (tmp_path / "file").read_bytes() == wanted


def test_half_precision_of_a_gguf_file_is_widened(tmp_path):
    a, b = np.ones((2, 4), np.float16) / 3, np.ones((6, 2), np.float16) / 7
    metadata = {
        "general.architecture": "bitnet-b1.58",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 0.0,
    }
    halves = {"a": a, "b": b}.items()
    tensors = [TensorSource.of(f"blk.3.ffn_up.weight.lora_{n}", half) for n, half in halves]
    write_gguf(tmp_path / "file", metadata, tensors)
    adapter = read_adapter(tmp_path / "file")
    assert adapter.scaling == 1  # what llama.cpp takes an alpha of 0 for
    assert adapter.modules == ["layers.3.mlp.up_proj"]
    np.testing.assert_array_equal(adapter.tensors["layers.3.mlp.up_proj.lora_A.weight"], a)


@pytest.mark.parametrize("targets", [ALL, ("q_proj",), ("q_proj", "v_proj", "up_proj")])
def test_hesper_has_q_and_v_only(tmp_path, targets):
    with pytest.raises(BitgraphError, match=r"q_proj and v_proj of every layer|no lora|lora_"):
        write_adapter(tmp_path / "file", made(targets), "hesper")
    assert not (tmp_path / "file").exists()


def unequal(rank_pattern, alpha_pattern, rslora=False):
    """An adapter of q_proj and v_proj whose v_proj has another rank, or is scaled otherwise."""
    ranks = {m: rank_pattern.get(m.rsplit(".", 1)[1], 2) for m in SHAPES}
    chosen = {m: s for m, s in SHAPES.items() if m.endswith(("q_proj", "v_proj"))}
    tensors = initial_tensors(chosen, {m: ranks[m] for m in chosen}, seed=0)
    tensors = {name: tensor + np.float32(0.5) for name, tensor in tensors.items()}
    targets = ("q_proj", "v_proj")
    return LoraAdapter(2, 4.0, targets, tensors, "", rslora, rank_pattern, alpha_pattern)


def test_unequal_ranks(tmp_path):
    adapter = unequal({"v_proj": 5}, {})
    write_adapter(tmp_path / "file", adapter, "gguf")
    again = read_adapter(tmp_path / "file")
    assert bits(again) == bits(adapter)
    for module in adapter.modules:
        assert again.scaling_of(module) == adapter.scaling_of(module)
    with pytest.raises(BitgraphError, match="ranks 2 to 5"):
        write_adapter(tmp_path / "hesper", adapter, "hesper")


@pytest.mark.parametrize("kind", ["gguf", "hesper"])
@pytest.mark.parametrize("adapter", [({}, {"v_proj": 1.0}), ({"v_proj": 5}, {}, True)])
def test_unequal_alphas_have_no_place(tmp_path, kind, adapter):
    with pytest.raises(BitgraphError, match=r"different alphas|ranks"):
        write_adapter(tmp_path / "file", unequal(*adapter), kind)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("kind", ["gguf", "hesper"])
@pytest.mark.parametrize("alpha", [1e-50, 1e50])
def test_an_alpha_beyond_float32(tmp_path, kind, alpha):
    with pytest.raises(BitgraphError, match="alpha"):
        write_adapter(tmp_path / "file", made(("q_proj", "v_proj"), alpha=alpha), kind)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"general.type": "model"}, "general.type"),
        ({"adapter.type": "control_vector"}, "adapter.type"),
        ({"general.architecture": "llama"}, "llama"),
        ({"adapter.lora.alpha": "6"}, "not a number"),
        ({"adapter.lora.alpha": float("nan")}, "not a number"),
        ({"adapter.lora.alpha": -1.0}, "alpha is -1.0"),
    ],
)
def test_keys_of_something_else(tmp_path, change, said):
    metadata = {
        "general.architecture": "bitnet",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 2.0,
    }
    half = np.ones((2, 2), np.float32)
    tensors = [TensorSource.of(f"blk.0.ffn_up.weight.lora_{n}", half) for n in "ab"]
    write_gguf(tmp_path / "good", metadata, tensors)
    assert read_gguf_adapter(tmp_path / "good").scaling == 1
    write_gguf(tmp_path / "bad", metadata | change, tensors)
    with pytest.raises(BitgraphError, match=said) as caught:
        read_gguf_adapter(tmp_path / "bad")
    assert str(tmp_path / "bad") in str(caught.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("blk.0.ffn_up.weight.lora_a",), "no lora_B"),
        (("blk.0.ffn_norm.weight.lora_a", "blk.0.ffn_norm.weight.lora_b"), "not a LoRA tensor"),
        (("blk.00.ffn_up.weight.lora_a", "blk.00.ffn_up.weight.lora_b"), "not a LoRA tensor"),
        (("output.weight.lora_a", "output.weight.lora_b"), "not a LoRA tensor"),
        ((), "no tensors|rank"),
    ],
)
def test_tensors_of_something_else(tmp_path, names, said):
    metadata = {"general.architecture": "bitnet", "general.type": "adapter", "adapter.type": "lora"}
    half = np.ones((2, 2), np.float32)
    write_gguf(tmp_path / "f", metadata, [TensorSource.of(name, half) for name in names])
    with pytest.raises(BitgraphError, match=said):
        read_gguf_adapter(tmp_path / "f")


@pytest.mark.parametrize(("rank", "layers"), [(0, 2**32 - 1), (2**32 - 1, 0), (0, 0), (2, 9)])
def test_sizes_are_not_believed(tmp_path, rank, layers):
    header = struct.pack("<IIIfII", 0x4C4F5241, 1, rank, 1.0, layers, 0)
    (tmp_path / "file").write_bytes(header)
    with pytest.raises(BitgraphError, match="layers of rank"):
        read_hesper(tmp_path / "file")


def test_a_file_that_is_no_adapter(tmp_path):
    (tmp_path / "file").write_bytes(b"something else")
    with pytest.raises(BitgraphError, match="is not an adapter"):
        read_adapter(tmp_path / "file")
    with pytest.raises(BitgraphError, match="is missing"):
        read_adapter(tmp_path / "nothing")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    config = replace(CONFIG, num_hidden_layers=2, hidden_size=8, head_dim=2, num_key_value_heads=1)
    adapter = made(("q_proj", "v_proj"), 2, 4.0, projection_shapes(config))
    for kind in ("gguf", "hesper"):
        write_adapter(folder / kind, adapter, kind)
    return folder, adapter


@settings(max_examples=200)
@given(
    kind=st.sampled_from(["gguf", "hesper"]),
    flips=st.lists(st.tuples(st.integers(0, 2**11), st.integers(1, 255)), max_size=6),
    length=st.none() | st.integers(0, 2**11),
    tail=st.binary(max_size=16),
)
def test_any_damage_ends_in_an_adapter_or_a_sentence(files, kind, flips, length, tail):
    folder, adapter = files
    data = bytearray((folder / kind).read_bytes())
    for position, mask in flips:
        data[position % len(data)] ^= mask
    path = folder / "damaged"
    path.write_bytes(bytes(data[:length]) + tail)
    read = read_gguf_adapter if kind == "gguf" else lambda path: read_hesper(path, (8, 2))
    try:
        found = read(path)
    except BitgraphError as error:
        found, said = None, str(error)
        in_one_line = str(path) in said and len(said.splitlines()) == 1
    assert in_one_line if found is None else found.rank >= 1
    if not flips and length is None and not (tail and kind == "hesper"):
        assert found is not None
        assert bits(found) == bits(adapter)


# Merging


def weights_of(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {f"{m}.weight": Ternary.pack(rng.integers(-1, 2, s), 0.5) for m, s in shapes.items()}


def test_the_error_of_merging_against_a_loop():
    adapter = made(rank=2, alpha=0.02)
    weights = weights_of(SHAPES)
    error = merge_error(adapter, weights)
    effect = absmean = kept = 0.0
    for module in SHAPES:
        w = weights[f"{module}.weight"].codes() * 0.5
        a, b = (adapter.tensors[f"{module}.lora_{h}.weight"].astype(np.float64) for h in "AB")
        wanted = w + 0.01 * b @ a
        mean = np.abs(wanted).mean()
        effect += ((wanted - w) ** 2).sum()
        absmean += ((np.clip(np.round(wanted / mean), -1, 1) * mean - wanted) ** 2).sum()
        kept += ((np.clip(np.round(wanted / 0.5), -1, 1) * 0.5 - wanted) ** 2).sum()
    assert error.absmean == pytest.approx(math.sqrt(absmean / effect), rel=1e-4)
    assert error.kept_scale == pytest.approx(math.sqrt(kept / effect), rel=1e-4)
    assert error.kept_scale > 0.9


def test_a_small_adapter_is_lost_whole():
    """Too small to move a weight to another code: the error is exactly its effect."""
    error = merge_error(made(alpha=1e-4), weights_of(SHAPES))
    assert error.kept_scale == pytest.approx(1, rel=1e-3)
    assert error.flipped == 0
    assert error.absmean > 1


def test_an_untrained_adapter_has_no_error():
    adapter = LoraAdapter(2, 2.0, ALL, initial_tensors(SHAPES, 2, seed=0))
    assert merge_error(adapter, weights_of(SHAPES)) is None
