"""Generating text: the prompt in one step, then a token a step, with a key-value cache."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ...graph.errors import BitgraphError
from ...graph.program import Backend, Program
from ...graph.tensors import Array, HostValue
from ...passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from ...passes.lora import Lora
from ...passes.manager import Pass, PassManager
from ..adapters.lora import LoraAdapter, check_fits
from .config import BitNetConfig, projection_shapes
from .forward import cache_shapes, decode_graph, embedding_dtype, graph_weights

_BUCKET = 64
"""Prompts are padded to a multiple of this many tokens."""


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
        self._programs: dict[int, Program] = {}
        backend.load(graph_weights(config, weights))
        if adapter is not None:
            backend.load(adapter.tensors)
        caches = cache_shapes(config, self._context)
        backend.load({name: np.zeros(shape, np.float32) for name, shape in caches.items()})

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
        token = self._feed(prompt, 0, sampling)
        room = self._context - len(prompt)
        for position in range(len(prompt), len(prompt) + min(max_tokens, room)):
            if token in stop_ids:
                return
            yield token
            if position + 1 < len(prompt) + min(max_tokens, room):
                token = self._feed([token], position, sampling)

    def _feed(self, tokens: list[int], position: int, sampling: Sampling) -> int:
        """Put tokens into the cache at a position; the token sampled after the last one.

        Padding takes the slots behind the tokens; whatever comes next writes over it.
        """
        count = len(tokens)
        padded = 1 if count == 1 else min(-(-count // _BUCKET) * _BUCKET, self._context - position)
        slots = np.arange(position, position + padded, dtype=np.int32)
        inputs = {
            "tokens": np.array(tokens + [0] * (padded - count), np.int32),
            "positions": slots,
            "slots": slots,
            "first": np.zeros(padded, np.int32),
            "last": slots,
            "row": np.array([count - 1], np.int32),
            "counter": np.array([position + count], np.int32),
        }
        results = self._program(padded).run({**inputs, **sampling.inputs()})
        return int(results["next"][0])

    def _program(self, tokens: int) -> Program:
        if tokens not in self._programs:
            graph = decode_graph(self._config, tokens, self._context, self._embedding)
            self._programs[tokens] = self._backend.compile(PassManager(self._passes).run(graph))
        return self._programs[tokens]


def _passes(config: BitNetConfig, adapter: LoraAdapter | None) -> tuple[Pass, ...]:
    cleanup = (MergeCommonSubexpressions(), EliminateDeadCode())
    if adapter is None:
        return cleanup
    check_fits(adapter, projection_shapes(config))
    alpha = adapter.scaling * adapter.rank
    modules = {name.rsplit(".lora_", 1)[0] for name in adapter.tensors}
    return (Lora(rank=adapter.rank, alpha=alpha, targets=tuple(sorted(modules))), *cleanup)
