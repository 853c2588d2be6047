"""Adapters go to PEFT and come back from it, on a tiny BitNet model; needs the `torch` extra."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ops import OPS
from bitgraph.graph.tensors import Ternary
from bitgraph.models.adapters.peft import (
    WEIGHTS,
    LoraAdapter,
    check_fits,
    initial_tensors,
    load_adapter,
    save_adapter,
)
from bitgraph.models.bitnet.cached import generation_passes
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.config import is_projection, projection_shapes, weight_shapes
from bitgraph.models.bitnet.forward import graph_weights, logits_graph
from bitgraph.models.training.options import TrainingOptions
from bitgraph.passes.manager import PassManager
from bitgraph.passes.surrogate import Surrogate
from hf_folders import CONFIG, config_keys, stored, write_folder

# Warnings of these packages are not the project's.
pytestmark = pytest.mark.filterwarnings("ignore")

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = 3
SHAPES = {
    f"layers.{layer}.{module}": shape
    for layer in range(LAYERS)
    for module, shape in (
        ("self_attn.q_proj", (64, 64)),
        ("self_attn.k_proj", (32, 64)),
        ("self_attn.v_proj", (32, 64)),
        ("self_attn.o_proj", (64, 64)),
        ("mlp.gate_proj", (96, 64)),
        ("mlp.up_proj", (96, 64)),
        ("mlp.down_proj", (64, 96)),
    )
}


class Torch(NamedTuple):
    torch: Any
    transformers: Any
    peft: Any


@pytest.fixture(scope="module")
def lib() -> Torch:
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    reason = "needs torch, transformers and peft (pip install bitgraph[torch])"
    return Torch(*(pytest.importorskip(name, reason=reason) for name in Torch._fields))


def tiny(lib: Torch) -> Any:
    """BitNet's layer names and shapes; what the weights are does not matter here."""
    lib.torch.manual_seed(0)
    config = lib.transformers.BitNetConfig(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return lib.transformers.BitNetForCausalLM(config)


def trained(rank: int = 4, **changes: Any) -> LoraAdapter:
    """Like after training: B is not zero."""
    rng = np.random.default_rng(1)
    pattern = changes.get("rank_pattern", {})
    ranks = {
        path: next((r for name, r in pattern.items() if path.endswith(name)), rank)
        for path in SHAPES
    }
    tensors = {
        name: tensor + rng.normal(size=tensor.shape).astype(np.float32)
        for name, tensor in initial_tensors(SHAPES, ranks, seed=0).items()
    }
    return LoraAdapter(rank, 6.0, SEVEN, tensors, **changes)


def state(lib: Torch, model: Any) -> dict[str, np.ndarray]:
    """PEFT's tensors under our names."""
    found = lib.peft.get_peft_model_state_dict(model)
    prefix = "base_model.model.model."
    assert all(name.startswith(prefix) for name in found)
    return {name.removeprefix(prefix): t.float().numpy() for name, t in found.items()}


def bits(tensors: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


PATTERNS: dict[str, dict[str, Any]] = {
    "rank_pattern": {"v_proj": 8, "layers.1.mlp.up_proj": 2},
    "alpha_pattern": {"q_proj": 3.0, "layers.0.self_attn.v_proj": 5.0},
}


@pytest.mark.parametrize("patterns", [{}, PATTERNS], ids=["plain", "patterns"])
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_loads_what_is_saved(lib, tmp_path, rslora, patterns):
    adapter = trained(rslora=rslora, base_model="some/base", **patterns)
    save_adapter(tmp_path, adapter)
    model = lib.peft.PeftModel.from_pretrained(tiny(lib), tmp_path)
    assert bits(state(lib, model)) == bits(adapter.tensors)
    for path in SHAPES:
        layer = model.base_model.model.model.get_submodule(path)
        assert layer.r["default"] == adapter.rank_of(path), path
        assert layer.scaling["default"] == pytest.approx(adapter.scaling_of(path)), path
    assert model.peft_config["default"].base_model_name_or_path == "some/base"


def test_peft_computes_what_the_adapter_says(lib, tmp_path):
    """Every projection: y + scaling * (x A^T) B^T, with A and B the right way round."""
    adapter = trained()
    save_adapter(tmp_path, adapter)
    base = tiny(lib)
    plain = {path: base.get_submodule(f"model.{path}").weight.detach().numpy() for path in SHAPES}
    model = lib.peft.PeftModel.from_pretrained(base, tmp_path).base_model.model.model
    for path, (_, features) in SHAPES.items():
        x = np.random.default_rng(2).normal(size=(5, features)).astype(np.float32)
        with lib.torch.no_grad():
            y = model.get_submodule(path)(lib.torch.from_numpy(x)).numpy()
        a = adapter.tensors[f"{path}.lora_A.weight"]
        b = adapter.tensors[f"{path}.lora_B.weight"]
        expected = x @ plain[path].T + adapter.scaling * (x @ a.T) @ b.T
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


SELECTIONS: list[dict[str, Any]] = [
    {"target_modules": list(SEVEN)},
    {"target_modules": list(SEVEN), "use_rslora": True, "lora_dropout": 0.1},
    {"target_modules": ["q_proj", "mlp.up_proj"], "init_lora_weights": "gaussian"},
    {"target_modules": "all-linear"},
    {
        "target_modules": list(SEVEN),
        "rank_pattern": {"up_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 3},
    },
    {"target_modules": r".*layers\.[12]\.self_attn\.[qv]_proj"},
    {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    {"target_modules": list(SEVEN), "exclude_modules": ["mlp.down_proj"]},
]


@pytest.mark.parametrize(
    ("selection", "dtype"),
    [(selection, "float32") for selection in SELECTIONS]
    + [(SELECTIONS[0], "bfloat16"), (SELECTIONS[0], "float16")],
)
def test_what_peft_saves_is_read_exactly(lib, tmp_path, selection, dtype):
    config = lib.peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **selection)
    model = lib.peft.get_peft_model(tiny(lib), config)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = lib.torch.randn_like(parameter).to(getattr(lib.torch, dtype))
    model.save_pretrained(tmp_path)

    with safetensors.safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert str(file.get_tensor(next(iter(file.keys()))).dtype) == f"torch.{dtype}"
    adapter = load_adapter(tmp_path)
    assert bits(adapter.tensors) == bits(state(lib, model))
    assert adapter.rank == 4
    assert adapter.scaling == (3.0 if selection.get("use_rslora") else 1.5)
    check_fits(adapter, SHAPES)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_there_and_back_again(lib, tmp_path, selection):
    """PEFT saves, we load and save, PEFT loads: the same modules, the same bits."""
    config = lib.peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **selection)
    first = lib.peft.get_peft_model(tiny(lib), config)
    first.save_pretrained(tmp_path / "theirs")
    save_adapter(tmp_path / "ours", load_adapter(tmp_path / "theirs"))
    second = lib.peft.PeftModel.from_pretrained(tiny(lib), tmp_path / "ours")
    assert bits(state(lib, second)) == bits(state(lib, first))
    assert load_adapter(tmp_path / "ours") == load_adapter(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {r".*\.up_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {r".*\.up_proj": 2}}, "alpha_pattern"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"layer_replication": [(0, 2), (1, 3)]}, "layer_replication"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ],
)
def test_other_features_of_peft_are_refused_by_name(lib, tmp_path, options, named):
    config = lib.peft.LoraConfig(r=4, target_modules=["up_proj"], task_type="CAUSAL_LM", **options)
    lib.peft.get_peft_model(tiny(lib), config).save_pretrained(tmp_path)
    with pytest.raises(BitgraphError, match=named):
        load_adapter(tmp_path)


def test_the_start_is_distributed_as_pefts(lib, tmp_path: Path):
    config = lib.peft.LoraConfig(r=64, target_modules=list(SEVEN), task_type="CAUSAL_LM")
    theirs = state(lib, lib.peft.get_peft_model(tiny(lib), config))
    ours = initial_tensors(SHAPES, 64, seed=0)
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
    for name, tensor in ours.items():
        assert np.abs(tensor).max() == pytest.approx(np.abs(theirs[name]).max(), rel=0.02)
        assert tensor.std() == pytest.approx(theirs[name].std(), rel=0.05)


def random_model() -> dict[str, Any]:
    """Weights that BF16 holds exactly, under our names, small enough to keep activations near 1."""
    rng = np.random.default_rng(3)
    weights: dict[str, Any] = {}
    for name, shape in weight_shapes(CONFIG).items():
        if is_projection(name):
            weights[name] = Ternary.pack(rng.integers(-1, 2, shape), 2.0**-3)
        elif len(shape) == 2:
            weights[name] = (rng.integers(-64, 64, shape) / 32).astype(np.float16)
        else:
            weights[name] = (1 + rng.integers(-8, 8, shape) / 64).astype(np.float32)
    return weights


def smooth_torch_model(lib: Torch, weights: dict[str, Any]) -> Any:
    """transformers' model with the ternary weights as floats and no activation quantizer."""
    config = lib.transformers.BitNetConfig(**config_keys(CONFIG), attn_implementation="eager")
    model = lib.transformers.BitNetForCausalLM(config).float().eval()
    state = {
        f"model.{name}": w.codes() * np.float32(w.scale) if isinstance(w, Ternary) else w
        for name, w in weights.items()
    }
    tensors = {n: lib.torch.from_numpy(w.astype(np.float32)) for n, w in state.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (list(missing), list(unexpected)) == (["lm_head.weight"], [])  # tied
    return model


@pytest.mark.parametrize("patterns", [{}, PATTERNS], ids=["plain", "patterns"])
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_gives_our_logits_on_the_smooth_graph(lib, tmp_path, rslora, patterns):
    """Our packed folder, our adapter folder; the activation quantizer is the identity in both."""
    weights = random_model()
    keys = config_keys(CONFIG, linear_class="autobitlinear", quantization_mode="offline")
    write_folder(tmp_path / "base", stored(weights, "autobitlinear"), keys, CONFIG.vocab_size)
    options = TrainingOptions(
        rank=4, alpha=6.0, rslora=rslora, targets=SEVEN, **{
            key: tuple(f"{name}={value}" for name, value in entries.items())
            for key, entries in patterns.items()
        },
    )  # fmt: skip
    shapes, lora = projection_shapes(CONFIG), options.lora()
    rng = np.random.default_rng(4)
    initial = initial_tensors(shapes, {module: lora.rank_of(module) for module in shapes}, seed=0)
    tensors = {
        name: tensor + 0.1 * rng.standard_normal(tensor.shape, np.float32)
        for name, tensor in initial.items()
    }
    save_adapter(tmp_path / "adapter", options.adapter(tensors, "base"))

    ids = rng.integers(0, CONFIG.vocab_size, 24)
    model = smooth_torch_model(lib, weights)
    with lib.torch.no_grad():
        plain = model(lib.torch.from_numpy(ids[None])).logits[0].numpy()
        adapted = lib.peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
        theirs = adapted(lib.torch.from_numpy(ids[None])).logits[0].numpy()

    checkpoint, adapter = load_checkpoint(tmp_path / "base"), load_adapter(tmp_path / "adapter")
    ours = smooth_logits(checkpoint, adapter, lora, ids)  # as in training
    assert np.abs(theirs - plain).max() > 0.1 * np.abs(plain).max()  # the adapter counts
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    read = smooth_logits(
        checkpoint, adapter, generation_passes(CONFIG, adapter)[0], ids
    )  # as in eval and generate
    assert np.array_equal(read, ours)
    if patterns:
        blind = replace(adapter, alpha_pattern={})
        wrong = smooth_logits(checkpoint, blind, generation_passes(CONFIG, blind)[0], ids)
        assert np.abs(wrong - theirs).max() > 1e-2 * np.abs(theirs).max()


def smooth_logits(checkpoint: Any, adapter: LoraAdapter, lora: Any, ids: np.ndarray) -> Any:
    """Ours."""
    graph = PassManager((lora, Surrogate())).run(logits_graph(CONFIG, ids.size))
    backend = NumpyBackend()
    backend.load({**graph_weights(CONFIG, checkpoint.weights), **adapter.tensors})
    slots = np.arange(ids.size, dtype=np.int32)
    feeds = {"tokens": ids.astype(np.int32), "positions": slots, "first": 0 * slots, "last": slots}
    return backend.compile(graph).run(feeds)["logits"]


@pytest.mark.parametrize("linear_class", ["autobitlinear", "bitlinear"])
def test_transformers_reads_the_packed_weights_as_we_do(lib, tmp_path, linear_class):
    """One packed layer of the library's own against ours, scale convention included."""
    bitnet = pytest.importorskip("transformers.integrations.bitnet")
    weight = random_model()["layers.0.mlp.up_proj.weight"]
    raw = stored({"layers.0.mlp.up_proj.weight": weight}, linear_class)
    packed = np.frombuffer(raw["model.layers.0.mlp.up_proj.weight"]["data"], np.uint8)
    rows = lib.torch.from_numpy(packed.reshape(-1, weight.shape[1]).copy())
    codes = bitnet.unpack_weights(rows, dtype=lib.torch.float32).numpy()
    assert np.array_equal(codes, weight.codes())
    x = np.random.default_rng(5).standard_normal((3, weight.shape[1])).astype(np.float32)
    kind = bitnet.AutoBitLinear if linear_class == "autobitlinear" else bitnet.BitLinear
    layer = kind(weight.shape[1], weight.shape[0], bias=False, dtype=lib.torch.float32)
    stored_scale = 1 / weight.scale if linear_class == "bitlinear" else weight.scale
    if linear_class == "autobitlinear":
        layer.weight.data = lib.torch.from_numpy(codes.copy())
    else:
        layer.weight = rows
    layer.weight_scale = lib.torch.tensor([stored_scale])
    with lib.torch.no_grad():
        theirs = layer(lib.torch.from_numpy(x)).numpy()
    quantized = OPS["quantize"].eval(x)
    ours = OPS["ternary_matmul"].eval(quantized, weight)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
