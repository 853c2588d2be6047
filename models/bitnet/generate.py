"""Generating text: the prompt in one step, then a token a step, with a key-value cache."""

import math
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
from ..adapters.stacking import stack
from .config import BitNetConfig, projection_shapes
from .forward import (
    SEEN,
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
    """How the next token is chosen; see the ops `sample` and `penalize`.

    Attributes:
        temperature: 0 for the most probable token.
        top_k: keep so many of the most probable, 0 for all.
        top_p: keep the most probable that together hold this probability, 1 for all.
        min_p: keep those at least this part as probable as the most probable, 0 for all.
        repetition_penalty: divides positive logits of tokens that were there, in the prompt too,
            and multiplies the others; 1 for none.
        seed: of the random numbers.

    Raises:
        BitgraphError: a value is out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise BitgraphError(f"temperature is {self.temperature}; give 0 or more")
        if self.top_k < 0:
            raise BitgraphError(f"top-k is {self.top_k}; give 0 for all tokens, or more")
        if not 0 < self.top_p <= 1:
            raise BitgraphError(f"top-p is {self.top_p}; give more than 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise BitgraphError(f"min-p is {self.min_p}; give 0 to 1")
        if not 1e-3 <= self.repetition_penalty <= 1e3:
            raise BitgraphError(
                f"repetition-penalty is {self.repetition_penalty}; give 1 for none, or up to 1000"
            )
        if not 0 <= self.seed < 2**32:
            raise BitgraphError(f"seed is {self.seed}; give 0 to {2**32 - 1}")

    @property
    def penalized(self) -> bool:
        """Whether tokens that were there are made less probable."""
        return self.repetition_penalty != 1

    def inputs(self) -> dict[str, Array]:
        """The scalar inputs of a decoding graph."""
        reach = abs(self.temperature * math.log(self.min_p)) if self.min_p else -1.0
        inputs = {
            "temperature": np.array(self.temperature, np.float32),
            "top_k": np.array(self.top_k, np.int32),
            "top_p": np.array(self.top_p, np.float32),
            "reach": np.array(reach, np.float32),
            "seed": np.array(self.seed, np.uint32),
        }
        if self.penalized:
            inputs["penalty"] = np.array(self.repetition_penalty, np.float32)
            inputs["inverse"] = np.array(1 / self.repetition_penalty, np.float32)
        return inputs


class Generator:
    """A model, perhaps with an adapter, ready to continue prompts.

    A prompt that begins like what the key-value cache holds, as each turn of a conversation does,
    is fed from where it differs.
    """

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
        self._passes = generation_passes(config, None)
        self._programs: dict[tuple[int, bool], Program] = {}
        self._cached: list[int] = []
        backend.load(graph_weights(config, weights))
        caches = cache_shapes(config, self._context)
        backend.load({name: np.zeros(shape, np.float32) for name, shape in caches.items()})
        backend.load({name: np.zeros(1, np.int32) for name in STATES})
        self.use(adapter)

    def use(self, adapter: LoraAdapter | None) -> None:
        """Go on with another adapter; nothing is compiled again if rank and modules are the same.

        Raises:
            BitgraphError: the adapter does not fit the model.
        """
        if adapter is not None:
            check_fits(adapter, projection_shapes(self._config))
            adapter = stack([(adapter, 1.0)])
            self._backend.load(adapter.tensors)
        passes = generation_passes(self._config, adapter)
        if passes != self._passes:
            self._passes = passes
            self._programs.clear()
        self._cached = []

    def room(self, prompt: list[int], max_tokens: int) -> int:
        """How many tokens can follow a prompt.

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
        return min(max_tokens, self._context - len(prompt))

    def generate(
        self, prompt: list[int], sampling: Sampling, stop_ids: frozenset[int], max_tokens: int
    ) -> Iterator[int]:
        """Yield the tokens that follow a prompt, up to a stop token, which is not yielded.

        Raises:
            BitgraphError: the prompt is empty or leaves no room in the context.
        """
        room = self.room(prompt, max_tokens)
        inputs = {**sampling.inputs(), "stops": _stops(stop_ids)}
        if sampling.penalized:
            seen = np.zeros(self._config.vocab_size, np.float32)
            seen[prompt] = 1
            self._backend.load({SEEN: seen})
        tokens = self._tokens(prompt, inputs, room, sampling.penalized)
        for count, token in enumerate(tokens, 1):
            if token in stop_ids:
                return
            yield token
            if count == room:
                return

    def _tokens(
        self, prompt: list[int], inputs: dict[str, Array], room: int, penalized: bool
    ) -> Iterator[int]:
        """The token behind the prompt, then at least `room` - 1 more, as the backend batches."""
        token = self._feed(prompt, inputs, penalized)
        yield token
        together = self._backend.steps_together
        decode = self._program(0, penalized)
        for begin in range(1, room, _WINDOW):
            window = min(_WINDOW, room - begin)
            decode.stage([inputs] * window)
            for done in range(0, window, together):
                for result in decode.start(min(together, window - done)).results():
                    self._cached.append(token)  # what this step has fed
                    token = int(result["next"][0])
                    yield token

    def _feed(self, prompt: list[int], inputs: dict[str, Array], penalized: bool) -> int:
        """Put the part of a prompt that is new into the cache; the token sampled behind it.

        Padding takes the slots behind the prompt; whatever comes next writes over it.
        """
        begin = min(_common(prompt, self._cached), len(prompt) - 1)
        self._cached = prompt[:begin]
        new = prompt[begin:]
        padded = min(-(-len(new) // _BUCKET) * _BUCKET, self._context - begin)
        slots = np.arange(begin, begin + padded, dtype=np.int32)
        fed = {
            "tokens": np.array(new + [0] * (padded - len(new)), np.int32),
            "positions": slots,
            "slots": slots,
            "first": np.zeros(padded, np.int32),
            "last": slots,
            "row": np.array([len(new) - 1], np.int32),
            "end": np.array([len(prompt)], np.int32),
        }
        results = self._program(padded, penalized).run({**inputs, **fed})
        self._cached = list(prompt)
        return int(results["next"][0])

    def _program(self, tokens: int, penalized: bool) -> Program:
        """For a prompt of so many tokens, or, if that is 0, for one token a step."""
        key = (tokens, penalized)
        if key not in self._programs:
            settings = (self._context, self._embedding, penalized)
            if tokens:
                graph = prompt_graph(self._config, tokens, *settings)
            else:
                graph = decode_graph(self._config, *settings)
            self._programs[key] = self._backend.compile(PassManager(self._passes).run(graph))
        return self._programs[key]


def _common(first: list[int], second: list[int]) -> int:
    """Length of the longest common beginning."""
    pairs = zip(first, second, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _stops(stop_ids: frozenset[int]) -> Array:
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
