"""The gradients of all weights are those of transformers, on a tiny model; needs the torch extra.

Transformers trains BitNet online: each `AutoBitLinear` rounds its float weight, and its input, in
every step, and passes the gradients straight through both.
"""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.types import DType, tensor
from bitgraph.models.bitnet.config import is_projection
from bitgraph.models.bitnet.forward import graph_weights, loss_graph
from bitgraph.models.bitnet.masters import initial_masters
from bitgraph.passes.grad import Grad
from bitgraph.passes.manager import PassManager
from bitgraph.passes.masters import Masters
from bitgraph.passes.surrogate import Surrogate
from hf_folders import CONFIG, config_keys

# Warnings of these packages are not the project's.
pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS = 24


@pytest.fixture(scope="module")
def torch() -> Any:
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    reason = "needs torch and transformers (pip install bitgraph[torch])"
    pytest.importorskip("transformers", reason=reason)
    return pytest.importorskip("torch", reason=reason)


@pytest.fixture(scope="module")
def masters() -> dict[str, np.ndarray]:
    """Like after some training: gains are not 1."""
    rng = np.random.default_rng(3)
    drawn = initial_masters(CONFIG, 0)
    return {
        name: (value * rng.uniform(0.8, 1.2, value.shape)).astype(np.float32)
        for name, value in drawn.items()
    }


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(4).integers(0, CONFIG.vocab_size, TOKENS)


def theirs(
    torch: Any, masters: dict[str, np.ndarray], ids: np.ndarray, quantized: bool
) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of the library's model, with online quantization or plain."""
    import transformers
    from transformers.integrations.bitnet import AutoBitLinear

    keys = config_keys(CONFIG)
    del keys["quantization_config"], keys["model_type"]
    config = transformers.BitNetConfig(**keys, attn_implementation="eager")
    model = transformers.BitNetForCausalLM(config).float()
    tensors = {f"model.{name}": torch.from_numpy(value) for name, value in masters.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (list(missing), list(unexpected)) == (["lm_head.weight"], [])  # tied
    if quantized:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.Linear) and name != "lm_head":
                    online = AutoBitLinear(
                        child.in_features, child.out_features, bias=False, online_quant=True
                    )
                    online.weight = child.weight
                    setattr(parent, name, online)
    batch = torch.from_numpy(ids[None])
    loss = model(batch, labels=batch).loss
    loss.backward()
    gradients = {
        name.removeprefix("model."): parameter.grad.numpy()
        for name, parameter in model.named_parameters()
    }
    return loss.item(), gradients


def ours(
    masters: dict[str, np.ndarray], ids: np.ndarray, quantized: bool
) -> tuple[float, dict[str, np.ndarray]]:
    passes = [Masters(), *([] if quantized else [Surrogate()]), Grad()]
    graph = PassManager(passes).run(loss_graph(CONFIG, TOKENS, DType.F32))
    slots = np.arange(TOKENS, dtype=np.int32)
    labels = np.append(ids[1:], -1).astype(np.int32)
    results = evaluate(
        graph,
        {
            **graph_weights(CONFIG, masters),
            "tokens": ids.astype(np.int32),
            "positions": slots,
            "first": np.zeros_like(slots),
            "last": slots,
            "labels": labels,
            "weights": np.where(labels >= 0, 1 / (TOKENS - 1), 0).astype(np.float32),
        },
    )
    gradients = {name: np.asarray(results[f"{name}.grad"]) for name in masters}
    return float(np.asarray(results["loss"])), gradients


def compare(torch: Any, masters: dict[str, np.ndarray], ids: np.ndarray, quantized: bool) -> None:
    loss, wanted = theirs(torch, masters, ids, quantized)
    our_loss, given = ours(masters, ids, quantized)
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert set(given) == set(wanted) == set(masters)
    for name, gradient in wanted.items():
        size = np.abs(gradient).max()
        assert size > 0, name
        assert np.abs(given[name] - gradient).max() <= 1e-4 * size, name


@pytest.mark.parametrize("quantized", [False, True], ids=["smooth", "online"])
def test_gradients_of_all_masters(torch, masters, ids, quantized):
    """With both quantizers replaced by the identity, and as trained (no code is near a tie)."""
    compare(torch, masters, ids, quantized)


@pytest.mark.parametrize("name", ["ternarize", "dequantize", "quantize"])
def test_a_gradient_that_is_off_by_a_thousandth_is_caught(torch, masters, ids, name, monkeypatch):
    true = OPS[name]

    def rule(b, node, dy):
        assert true.vjp is not None
        return (b.op("scale", *true.vjp(b, node, dy), factor=1.001),)

    if name == "dequantize":  # it has no gradient of its own in a step, but the value counts
        wrong = replace(true, eval=lambda q: true.eval(q) * np.float32(1.001))
    else:
        wrong = replace(true, vjp=rule)
    monkeypatch.setitem(OPS, name, wrong)
    with pytest.raises(AssertionError):
        compare(torch, masters, ids, quantized=True)


def test_straight_through_gradients_of_a_layer(torch, masters):
    """One rounded product, its result and both gradients."""
    from transformers.integrations.bitnet import AutoBitLinear

    name = "layers.0.mlp.up_proj.weight"
    out, width = masters[name].shape
    b = GraphBuilder("layer")
    w = b.add_input(name, tensor("t2", out, width), Role.WEIGHT)
    x = b.add_input("x", tensor("f32", 5, width), Role.PARAM)
    dy = b.add_input("dy", tensor("f32", 5, out), Role.INPUT)
    y = b.op("ternary_matmul", b.op("quantize", x), w, name="y")
    graph = PassManager([Masters(), Grad()]).run(b.finish((b.op("dot", y, dy, name="loss"), y)))
    rng = np.random.default_rng(5)
    values = {
        n: rng.standard_normal(s, np.float32) for n, s in (("x", (5, width)), ("dy", (5, out)))
    }
    results = evaluate(graph, {**values, name: masters[name]})

    layer = AutoBitLinear(width, out, bias=False, online_quant=True)
    layer.weight.data = torch.from_numpy(masters[name].copy())
    given = torch.from_numpy(values["x"]).requires_grad_()
    made = layer(given)
    made.backward(torch.from_numpy(values["dy"]))
    for mine, theirs_ in (
        (results["y"], made.detach()),
        (results[f"{name}.grad"], layer.weight.grad),
        (results["x.grad"], given.grad),
    ):
        wanted = theirs_.numpy()
        assert np.abs(np.asarray(mine) - wanted).max() <= 2e-6 * np.abs(wanted).max()


def test_the_weight_quantizer_passes_its_gradient_through_unchanged(torch, masters):
    """Bit for bit, and where the rounded weight was clipped too."""
    from transformers.integrations.bitnet import WeightQuant

    assert sum(is_projection(name) for name in masters) == 14
    for name, master in masters.items():
        if not is_projection(name):
            continue
        cotangent = np.random.default_rng(6).standard_normal(master.shape, np.float32)
        weight = torch.from_numpy(master.copy()).requires_grad_()
        rounded = WeightQuant.apply(weight)
        rounded.backward(torch.from_numpy(cotangent))
        assert weight.grad.numpy().tobytes() == cotangent.tobytes()
        b = GraphBuilder("quantizer")
        w = b.add_input("w", tensor("f32", *master.shape), Role.PARAM)
        b.op("ternarize", w)
        dq = b.add_input("dq", tensor("f32", *master.shape), Role.INPUT)
        ternarize = OPS["ternarize"]
        assert ternarize.vjp is not None
        assert ternarize.vjp(b, b.nodes[0], dq) == (dq,)
        ternary = ternarize.eval(master)
        np.testing.assert_allclose(
            ternary.codes() * np.float32(ternary.scale), rounded.detach().numpy(), rtol=1e-6
        )
