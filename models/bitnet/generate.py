"""Generating text: the prompt in one step, then a token a step, with a key-value cache."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ...graph.errors import BitgraphError
from ...graph.program import Backend, Program
from ...graph.tensors import Array, HostValue
from ...passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from ...passes.fuse.fuse import Fuse
from ...passes.lora import Lora
from ...passes.manager import Pass, PassManager
from ..adapters.lora import LoraAdapter, check_fits
from .config import BitNetConfig, projection_shapes
from .forward import (
    STATES,
    STOPS,
    cache_shapes,
    decode_graph,
    embedding_dtype,
    graph_weights,
    prompt_graph,
)

_BUCKET = 64
"""Prompts are padded to a multiple of this many tokens."""

_WINDOW = 64
"""Tokens whose inputs are handed to the backend together."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; see the op `sample`.

    Attributes:
        temperature: 0 for the most probable token.
        top_k: keep so many of the most probable, 0 for all.
        top_p: keep the most probable that together hold this probability, 1 for all.
        seed: of the random numbers.

    Raises:
        BitgraphError: a value is out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise BitgraphError(f"temperature is {self.temperature}; give 0 or more")
        if self.top_k < 0:
            raise BitgraphError(f"top-k is {self.top_k}; give 0 for all tokens, or more")
        if not 0 < self.top_p <= 1:
            raise BitgraphError(f"top-p is {self.top_p}; give more than 0 and at most 1")
        if not 0 <= self.seed < 2**32:
            raise BitgraphError(f"seed is {self.seed}; give 0 to {2**32 - 1}")

    def inputs(self) -> dict[str, Array]:
        """The scalar inputs of a decoding graph."""
        return {
            "temperature": np.array(self.temperature, np.float32),
            "top_k": np.array(self.top_k, np.int32),
            "top_p": np.array(self.top_p, np.float32),
            "seed": np.array(self.seed, np.uint32),
        }


class Generator:
    """A model, perhaps with an adapter, ready to continue prompts."""

    def __init__(
        self,
        config: BitNetConfig,
        weights: Mapping[str, HostValue],
        backend: Backend,
        adapter: LoraAdapter | None = None,
        context: int | None = None,
    ) -> None:
        """Load the weights and empty caches.

        Args:
            config: the model's geometry.
            weights: as a checkpoint gives them.
            backend: where to compute.
            adapter: applied unmerged.
            context: slots of the key-value cache, the model's context if None.

        Raises:
            BitgraphError: the adapter does not fit the model.
        """
        self._config = config
        self._backend = backend
        self._context = min(
            context or config.max_position_embeddings, config.max_position_embeddings
        )
        self._embedding = embedding_dtype(weights)
        self._passes = _passes(config, adapter)
        self._prompts: dict[int, Program] = {}
        self._decode: Program | None = None
        backend.load(graph_weights(config, weights))
        if adapter is not None:
            backend.load(adapter.tensors)
        caches = cache_shapes(config, self._context)
        backend.load({name: np.zeros(shape, np.float32) for name, shape in caches.items()})
        backend.load({name: np.zeros(1, np.int32) for name in STATES})

    def generate(
        self, prompt: list[int], sampling: Sampling, stop_ids: frozenset[int], max_tokens: int
    ) -> Iterator[int]:
        """Yield the tokens that follow a prompt, up to a stop token, which is not yielded.

        Raises:
            BitgraphError: the prompt is empty or leaves no room in the context.
        """
        if not prompt:
            raise BitgraphError("the prompt has no tokens; give some text")
        if len(prompt) >= self._context:
            raise BitgraphError(
                f"the prompt has {len(prompt)} tokens, but the context holds {self._context}; "
                "shorten it"
            )
        room = min(max_tokens, self._context - len(prompt))
        inputs = {**sampling.inputs(), "stops": _stops(stop_ids)}
        for count, token in enumerate(self._tokens(prompt, inputs, room), 1):
            if token in stop_ids:
                return
            yield token
            if count == room:
                return

    def _tokens(self, prompt: list[int], inputs: dict[str, Array], room: int) -> Iterator[int]:
        """The token behind the prompt, then at least `room` - 1 more, as the backend batches."""
        yield self._feed(prompt, inputs)
        together = self._backend.steps_together
        if self._decode is None:
            graph = decode_graph(self._config, self._context, self._embedding)
            self._decode = self._backend.compile(PassManager(self._passes).run(graph))
        for begin in range(1, room, _WINDOW):
            window = min(_WINDOW, room - begin)
            self._decode.stage([inputs] * window)
            for done in range(0, window, together):
                for result in self._decode.start(min(together, window - done)).results():
                    yield int(result["next"][0])

    def _feed(self, prompt: list[int], inputs: dict[str, Array]) -> int:
        """Put a prompt into the cache; the token sampled behind it.

        Padding takes the slots behind the prompt; whatever comes next writes over it.
        """
        count = len(prompt)
        padded = min(-(-count // _BUCKET) * _BUCKET, self._context)
        slots = np.arange(padded, dtype=np.int32)
        fed = {
            "tokens": np.array(prompt + [0] * (padded - count), np.int32),
            "positions": slots,
            "slots": slots,
            "first": np.zeros(padded, np.int32),
            "last": slots,
            "row": np.array([count - 1], np.int32),
            "end": np.array([count], np.int32),
        }
        if padded not in self._prompts:
            graph = prompt_graph(self._config, padded, self._context, self._embedding)
            self._prompts[padded] = self._backend.compile(PassManager(self._passes).run(graph))
        results = self._prompts[padded].run({**inputs, **fed})
        return int(results["next"][0])


def _stops(stop_ids: frozenset[int]) -> Array:
    """The stop tokens that the device tests for, the rest of the places -1."""
    ids = sorted(stop_ids)[:STOPS]
    return np.array(ids + [-1] * (STOPS - len(ids)), np.int32)


def _passes(config: BitNetConfig, adapter: LoraAdapter | None) -> tuple[Pass, ...]:
    last = (MergeCommonSubexpressions(), EliminateDeadCode(), Fuse())
    if adapter is None:
        return last
    check_fits(adapter, projection_shapes(config))
    alpha = adapter.scaling * adapter.rank
    modules = {name.rsplit(".lora_", 1)[0] for name in adapter.tensors}
    return (Lora(rank=adapter.rank, alpha=alpha, targets=tuple(sorted(modules))), *last)
