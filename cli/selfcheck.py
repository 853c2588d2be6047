"""Whole-model checks of a backend, on a small random model."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..backends.equivalence import Finding, check_graph
from ..graph.ir import Graph, Role
from ..graph.program import Backend
from ..graph.tensors import Array, HostValue, Ternary
from ..models.bitnet.config import BitNetConfig, is_projection, weight_shapes
from ..models.bitnet.forward import graph_weights, logits_graph, loss_graph
from ..models.data.batching import make_batch
from ..models.data.examples import prompted
from ..passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from ..passes.fuse.fuse import Fuse
from ..passes.grad import Grad
from ..passes.lora import Lora
from ..passes.manager import Pass, PassManager
from ..passes.surrogate import Surrogate

CONFIG = BitNetConfig(
    vocab_size=640,
    hidden_size=256,
    intermediate_size=384,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    max_position_embeddings=512,
)

SMOOTH = 1e-2
"""Allowed on the smooth graph, where rounding is all that differs, f16 on matrix units included."""

QUANTIZED = 0.05
"""Allowed where an int8 code may flip and move everything behind it."""

_LENGTHS = (70, 33, 25)


def model_checks(backend: Backend, seed: int = 0) -> Iterator[Finding]:
    """Compare logits, loss and the gradients of all adapters with the reference.

    Each graph is run as it is and with fused nodes.
    """
    weights = _random_weights(seed)
    inputs = _batch(seed)
    cleanup: tuple[Pass, ...] = (MergeCommonSubexpressions(), EliminateDeadCode())
    gradients: tuple[Pass, ...] = (Lora(rank=8, alpha=16.0), Surrogate(), Grad(), *cleanup)
    tokens = len(inputs["tokens"])
    smooth = PassManager(gradients).run(loss_graph(CONFIG, tokens))
    quantized = PassManager(cleanup).run(logits_graph(CONFIG, tokens))
    for graph, tolerance, subject in (
        (smooth, SMOOTH, "model-gradients"),
        (quantized, QUANTIZED, "model-logits"),
    ):
        for one, name in ((graph, subject), (Fuse()(graph), f"{subject}-fused")):
            yield from _check(backend, one, weights, inputs, tolerance, name, seed)


def _check(
    backend: Backend,
    graph: Graph,
    weights: dict[str, HostValue],
    inputs: dict[str, Array],
    tolerance: float,
    subject: str,
    seed: int,
) -> Iterator[Finding]:
    rng = np.random.default_rng(seed)
    params: dict[str, HostValue] = {
        value.name: (0.05 * rng.standard_normal(value.type.shape)).astype(np.float32)
        for value in graph.inputs_of(Role.PARAM)
    }
    wanted = {value.name for value in graph.inputs_of(Role.INPUT)}
    fed = {name: array for name, array in inputs.items() if name in wanted}
    for finding in check_graph(backend, graph, {**weights, **params}, fed, tolerance, subject):
        yield replace(finding, subject=f"{subject}({finding.subject})")


def _random_weights(seed: int) -> dict[str, HostValue]:
    rng = np.random.default_rng(seed)
    weights: dict[str, HostValue] = {}
    for name, shape in weight_shapes(CONFIG).items():
        if is_projection(name):
            weights[name] = Ternary.pack(rng.integers(-1, 2, shape), 1.2 / np.sqrt(shape[1]))
        elif len(shape) == 2:
            weights[name] = rng.standard_normal(shape).astype(np.float16)
        else:
            weights[name] = (1 + 0.2 * rng.standard_normal(shape)).astype(np.float32)
    return graph_weights(CONFIG, weights)


def _batch(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    examples = [
        prompted(rng.integers(0, CONFIG.vocab_size, length).astype(np.int32), length // 3)
        for length in _LENGTHS
    ]
    return make_batch(examples, 128).inputs()
