"""A model with a key-value cache on a backend: what generating text needs, one prompt or many."""

from collections.abc import Mapping

import numpy as np

from ...graph.errors import BitgraphError
from ...graph.program import Backend, Program
from ...graph.tensors import Array, HostValue
from ...passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from ...passes.fuse.fuse import Fuse
from ...passes.lora import Lora
from ...passes.manager import Pass, PassManager
from ..adapters.lora import LoraAdapter, check_fits
from ..adapters.stacking import stack
from .config import BitNetConfig, projection_shapes
from .forward import (
    FIRST_SLOT,
    SLOT,
    STATES,
    STOPS,
    cache_shapes,
    decode_graph,
    embedding_dtype,
    graph_weights,
    prompt_graph,
)

BUCKET = 64
"""Prompts are padded to a multiple of this many tokens."""

WINDOW = 64
"""Tokens whose inputs are handed to the backend together."""


class CachedModel:
    """Weights, empty caches for some sequences, and the programs that read and fill them.

    Attributes:
        config: the model's geometry.
        backend: where all of it is.
        context: slots of the cache for each sequence.
        sequences: how many there are.
    """

    def __init__(
        self,
        config: BitNetConfig,
        weights: Mapping[str, HostValue],
        backend: Backend,
        context: int,
        sequences: int = 1,
    ) -> None:
        self.config = config
        self.backend = backend
        self.context = context
        self.sequences = sequences
        self._embedding = embedding_dtype(weights)
        self._passes = generation_passes(config, None)
        self._programs: dict[tuple[int, bool], Program] = {}
        caches = cache_shapes(config, sequences * context)
        backend.load(graph_weights(config, weights))
        backend.load({name: np.zeros(shape, np.float32) for name, shape in caches.items()})
        backend.load({name: np.zeros(sequences, np.int32) for name in (*STATES, SLOT)})
        backend.load({FIRST_SLOT: self.first_slots})

    @property
    def first_slots(self) -> Array:
        """The slot of each sequence's first token, i32 [sequences]."""
        return np.arange(self.sequences, dtype=np.int32) * np.int32(self.context)

    def use(self, adapter: LoraAdapter | None) -> None:
        """Go on with another adapter; nothing is compiled again if rank and modules are the same.

        Raises:
            BitgraphError: the adapter does not fit the model.
        """
        if adapter is not None:
            check_fits(adapter, projection_shapes(self.config))
            adapter = stack([(adapter, 1.0)])
            self.backend.load(adapter.tensors)
        passes = generation_passes(self.config, adapter)
        if passes != self._passes:
            self._passes = passes
            self._programs.clear()

    def program(self, tokens: int, penalized: bool = False) -> Program:
        """For prompts of so many tokens together, or, if that is 0, for one token a step."""
        key = (tokens, penalized)
        if key not in self._programs:
            settings = (self.context, self._embedding, penalized, self.sequences)
            if tokens:
                graph = prompt_graph(self.config, tokens, *settings)
            else:
                graph = decode_graph(self.config, *settings)
            self._programs[key] = self.backend.compile(PassManager(self._passes).run(graph))
        return self._programs[key]


def check_room(prompt: list[int], context: int) -> int:
    """How many tokens can follow a prompt.

    Raises:
        BitgraphError: the prompt is empty or leaves no room in the context.
    """
    if not prompt:
        raise BitgraphError("the prompt has no tokens; give some text")
    if len(prompt) >= context:
        raise BitgraphError(
            f"the prompt has {len(prompt)} tokens, but the context holds {context}; shorten it"
        )
    return context - len(prompt)


def stop_inputs(stop_ids: frozenset[int]) -> Array:
    """The stop tokens that the device tests for, the rest of the places -1."""
    ids = sorted(stop_ids)[:STOPS]
    return np.array(ids + [-1] * (STOPS - len(ids)), np.int32)


def generation_passes(config: BitNetConfig, adapter: LoraAdapter | None) -> tuple[Pass, ...]:
    """From a graph of a model without adapters to the one that is run.

    Raises:
        BitgraphError: the adapter does not fit the model.
    """
    last = (MergeCommonSubexpressions(), EliminateDeadCode(), Fuse())
    if adapter is None:
        return last
    check_fits(adapter, projection_shapes(config))
    modules = {name.rsplit(".lora_", 1)[0] for name in adapter.tensors}
    lora = Lora(
        rank=adapter.rank,
        alpha=adapter.alpha,
        targets=tuple(sorted(modules)),
        rank_pattern=tuple(f"{name}={rank}" for name, rank in adapter.rank_pattern.items()),
        alpha_pattern=tuple(f"{name}={alpha}" for name, alpha in adapter.alpha_pattern.items()),
        rslora=adapter.rslora,
    )
    return (lora, *last)
