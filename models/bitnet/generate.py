"""Generating text: the prompt in one step, then a token a step, with a key-value cache."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ...graph.errors import BitgraphError
from ...graph.program import Backend
from ...graph.tensors import Array, HostValue
from ..adapters.lora import LoraAdapter
from .cached import BUCKET, WINDOW, CachedModel, check_room, stop_inputs
from .config import BitNetConfig
from .forward import SEEN


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
        self._context = min(
            context or config.max_position_embeddings, config.max_position_embeddings
        )
        self._model = CachedModel(config, weights, backend, self._context)
        self.use(adapter)

    def use(self, adapter: LoraAdapter | None) -> None:
        """Go on with another adapter; nothing is compiled again if rank and modules are the same.

        Raises:
            BitgraphError: the adapter does not fit the model.
        """
        self._model.use(adapter)
        self._cached: list[int] = []

    def room(self, prompt: list[int], max_tokens: int) -> int:
        """How many tokens can follow a prompt.

        Raises:
            BitgraphError: the prompt is empty or leaves no room in the context.
        """
        return min(max_tokens, check_room(prompt, self._context))

    def generate(
        self, prompt: list[int], sampling: Sampling, stop_ids: frozenset[int], max_tokens: int
    ) -> Iterator[int]:
        """Yield the tokens that follow a prompt, up to a stop token, which is not yielded.

        Raises:
            BitgraphError: the prompt is empty or leaves no room in the context.
        """
        room = self.room(prompt, max_tokens)
        inputs = {**sampling.inputs(), "stops": stop_inputs(stop_ids)}
        if sampling.penalized:
            seen = np.zeros(self._model.config.vocab_size, np.float32)
            seen[prompt] = 1
            self._model.backend.load({SEEN: seen})
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
        together = self._model.backend.steps_together
        decode = self._model.program(0, penalized)
        for begin in range(1, room, WINDOW):
            window = min(WINDOW, room - begin)
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
        padded = min(-(-len(new) // BUCKET) * BUCKET, self._context - begin)
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
        results = self._model.program(padded, penalized).run({**inputs, **fed})
        self._cached = list(prompt)
        return int(results["next"][0])


def _common(first: list[int], second: list[int]) -> int:
    """Length of the longest common beginning."""
    pairs = zip(first, second, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
