"""One training step as plain data, to be looked into or run in several ways."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...graph.ir import Graph, Role
from ...graph.tensors import Array, HostValue
from ...passes.optimizer import SOUND
from ..bitnet.config import BitNetConfig
from ..bitnet.forward import embedding_dtype, graph_weights, loss_graph
from ..data.batching import make_batch
from ..data.examples import Example
from .trainer import BUCKET, step_inputs

_SIZE = 0.02
"""Standard deviation of the adapters."""

_LEARNING_RATE = 1e-3


def sample_step(
    config: BitNetConfig, weights: Mapping[str, HostValue], examples: Sequence[Example]
) -> tuple[Graph, dict[str, HostValue]]:
    """The graph of the loss on one batch, before any pass, and values for its inputs."""
    batch = make_batch(examples, BUCKET)
    graph = loss_graph(config, batch.tokens.size, embedding_dtype(weights))
    graph = replace(graph, outputs=(graph.output("loss"),))
    return graph, {
        **graph_weights(config, weights),
        **step_inputs(batch, 1, _LEARNING_RATE),
    }


def sample_state(graph: Graph, seed: int) -> dict[str, HostValue]:
    """Random params and states for the graph of a step: as if it had been trained for a while.

    Adapters whose B is zero, as at the start of a run, would hide errors in the gradient of A.
    """
    rng = np.random.default_rng(seed)
    values: dict[str, HostValue] = {}
    for value in graph.inputs_of(Role.PARAM, Role.STATE):
        drawn: Array = _SIZE * rng.standard_normal(value.type.shape)
        if value.name == SOUND:
            drawn = np.ones(())
        elif value.name.endswith(".v"):
            drawn = drawn * drawn
        values[value.name] = np.asarray(drawn).astype(value.type.dtype.numpy)
    return values
