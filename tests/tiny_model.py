"""A BitNet of a few thousand weights: its graphs, values and batches."""

import numpy as np
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.tensors import HostValue, Quantized, Ternary
from bitgraph.models.bitnet.config import BitNetConfig, is_projection, weight_shapes
from bitgraph.models.bitnet.forward import graph_weights, loss_graph
from bitgraph.models.data.batching import TokenBatch, make_batch
from bitgraph.models.data.examples import prompted
from bitgraph.passes.lora import Lora
from bitgraph.passes.manager import Pass, PassManager
from bitgraph.passes.masters import Masters
from bitgraph.passes.surrogate import Promote, Surrogate

CONFIG = BitNetConfig(
    vocab_size=48,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=512,
)

RANK = 3


def model_values(config: BitNetConfig = CONFIG, seed: int = 0) -> dict[str, HostValue]:
    """Random weights that keep activations near one, and the rotary frequencies."""
    rng = np.random.default_rng(seed)
    weights: dict[str, HostValue] = {}
    for name, shape in weight_shapes(config).items():
        if is_projection(name):
            codes = rng.integers(-1, 2, shape)
            weights[name] = Ternary.pack(codes, 1.2 / np.sqrt(shape[1]))
        elif len(shape) == 2:
            weights[name] = rng.standard_normal(shape).astype(np.float16)
        else:
            weights[name] = (1 + 0.2 * rng.standard_normal(shape)).astype(np.float32)
    return graph_weights(config, weights)


def random_batch(
    lengths: list[int],
    config: BitNetConfig = CONFIG,
    multiple: int = 1,
    seed: int = 0,
    whole: bool = False,
) -> TokenBatch:
    """Examples of these lengths end to end, each with a prompt of a third, or `whole` of one token.

    So all but the last token of a whole example have labels.
    """
    rng = np.random.default_rng(seed)
    examples = [
        prompted(
            rng.integers(0, config.vocab_size, n).astype(np.int32), 1 if whole else max(1, n // 3)
        )
        for n in lengths
    ]
    return make_batch(examples, multiple)


def batch_values(batch: TokenBatch) -> dict[str, np.ndarray]:
    """What the inputs of a loss graph are called."""
    return batch.inputs()


def random_values(
    graph: Graph, roles: tuple[Role, ...] = (Role.PARAM,), seed: int = 1
) -> dict[str, np.ndarray]:
    """Small random floats for inputs of some roles, second moments positive; integers are 1."""
    rng = np.random.default_rng(seed)
    values = {}
    for value in graph.inputs_of(*roles):
        drawn = 0.3 * rng.standard_normal(value.type.shape)
        drawn = np.abs(drawn) if value.name.endswith(".v") else drawn
        drawn = drawn if value.type.dtype.is_float else np.ones_like(drawn)
        values[value.name] = drawn.astype(value.type.dtype.numpy)
    return values


def smooth_loss_graph(tokens: int, config: BitNetConfig = CONFIG) -> Graph:
    """The loss with adapters on every projection, without quantizers, in float64."""
    passes: list[Pass] = [Lora(rank=RANK, alpha=6.0), Surrogate(), Promote()]
    return PassManager(passes).run(loss_graph(config, tokens))


def smooth_master_graph(tokens: int, config: BitNetConfig = CONFIG) -> Graph:
    """The loss with all weights under training, without quantizers, in float64."""
    passes: list[Pass] = [Masters(), Surrogate(), Promote()]
    return PassManager(passes).run(loss_graph(config, tokens))


def master_values(config: BitNetConfig = CONFIG, seed: int = 0) -> dict[str, HostValue]:
    """Floats for all weights of a model."""
    return {
        name: value.dense(np.float32) * np.float32(value.scale)
        if isinstance(value, Ternary)
        else np.asarray(value, np.float32)
        for name, value in model_values(config, seed).items()
        if not isinstance(value, Quantized)
    }


def as_double(values: dict[str, HostValue]) -> dict[str, HostValue]:
    """Every float as float64."""
    return {
        name: value.astype(np.float64)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        else value
        for name, value in values.items()
    }


def smooth_values(graph: Graph, batch: TokenBatch, seed: int = 0) -> dict[str, HostValue]:
    """Values for all inputs of a graph that `smooth_loss_graph` gives."""
    values = {**model_values(seed=seed), **batch_values(batch)}
    return as_double({**values, **random_values(graph)})
