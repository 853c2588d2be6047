"""Generating text for many prompts: several at a time, a token of each in every step."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ...graph.errors import BitgraphError
from ...graph.program import Backend
from ...graph.tensors import Array, HostValue
from ..adapters.lora import LoraAdapter
from .cached import BUCKET, WINDOW, CachedModel, check_room, stop_inputs
from .config import BitNetConfig
from .generate import Sampling
from .tokenizer import Tokenizer

SEQUENCES = 8
"""Prompts at a time that suit a GPU: its products of few rows take no longer for so many."""


class BatchGenerator:
    """A model, perhaps with an adapter, ready to continue many prompts.

    Every prompt has its own part of the key-value cache, its own positions and its own end, so its
    answer is that of `Generator`, with the same seed too. Rounding alone can part them, as a
    product of several rows may add up in another order: where two tokens are as good as equal.
    """

    def __init__(
        self,
        config: BitNetConfig,
        weights: Mapping[str, HostValue],
        backend: Backend,
        adapter: LoraAdapter | None = None,
        *,
        longest: int,
        max_tokens: int,
        sequences: int = SEQUENCES,
    ) -> None:
        """Load the weights and empty caches.

        Args:
            config: the model's geometry.
            weights: as a checkpoint gives them.
            backend: where to compute.
            adapter: applied unmerged.
            longest: tokens of the longest prompt.
            max_tokens: the longest answer.
            sequences: prompts that are answered at a time, 2 or more.

        Raises:
            BitgraphError: the adapter does not fit the model.
        """
        if sequences < 2:
            raise BitgraphError(f"{sequences} prompts at a time are no batch; give 2 or more")
        self._positions = config.max_position_embeddings
        self._longest = longest
        self._max_tokens = min(max_tokens, self._positions)
        context = -(-(longest + self._max_tokens) // BUCKET) * BUCKET
        self._model = CachedModel(config, weights, backend, context, sequences)
        self.use(adapter)

    def use(self, adapter: LoraAdapter | None) -> None:
        """Go on with another adapter; nothing is compiled again if rank and modules are the same.

        Raises:
            BitgraphError: the adapter does not fit the model.
        """
        self._model.use(adapter)

    def room(self, prompt: list[int]) -> int:
        """How many tokens can follow a prompt.

        Raises:
            BitgraphError: the prompt is empty, or longer than said, or leaves no room in the
                model's context.
        """
        room = check_room(prompt, self._positions)
        if len(prompt) > self._longest:
            raise BitgraphError(
                f"the prompt has {len(prompt)} tokens, but the longest was to have {self._longest}"
            )
        return min(self._max_tokens, room)

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, stop_ids: frozenset[int]
    ) -> Iterator[list[int]]:
        """Yield the tokens behind each prompt, in their order, up to a stop token.

        Raises:
            BitgraphError: a prompt has no `room`, or repetitions are penalized, which is done for
                one prompt at a time only.
        """
        if sampling.penalized:
            raise BitgraphError("a repetition penalty needs one prompt at a time")
        inputs = {**sampling.inputs(), "stops": stop_inputs(stop_ids)}
        for begin in range(0, len(prompts), self._model.sequences):
            yield from self._together(
                prompts[begin : begin + self._model.sequences], inputs, stop_ids
            )

    def _together(
        self, prompts: Sequence[list[int]], inputs: dict[str, Array], stop_ids: frozenset[int]
    ) -> Iterator[list[int]]:
        """The answers to no more prompts than there are sequences."""
        rooms = [self.room(prompt) for prompt in prompts]
        answers: list[list[int]] = [[] for _ in prompts]
        going = set(range(len(prompts)))
        for tokens in self._steps(prompts, inputs, max(rooms)):
            for row in sorted(going):
                token = int(tokens[row])
                if token not in stop_ids:
                    answers[row].append(token)
                if token in stop_ids or len(answers[row]) == rooms[row]:
                    going.remove(row)
            if not going:
                break
        yield from answers

    def _steps(
        self, prompts: Sequence[list[int]], inputs: dict[str, Array], count: int
    ) -> Iterator[Array]:
        """The next token of every sequence, `count` times."""
        fed = {**inputs, **self._lay_out(prompts)}
        yield self._model.program(fed["tokens"].size).run(fed)["next"]
        together = self._model.backend.steps_together
        decode = self._model.program(0)
        for begin in range(1, count, WINDOW):
            window = min(WINDOW, count - begin)
            decode.stage([inputs] * window)
            for done in range(0, window, together):
                for result in decode.start(min(together, window - done)).results():
                    yield result["next"]

    def _lay_out(self, prompts: Sequence[list[int]]) -> dict[str, Array]:
        """The inputs of `prompt_graph`: prompts end to end, then padding.

        Padding takes slots that no prompt has, of which there are enough as a cache of several
        buckets holds them all; whatever comes next in such a slot writes over it.
        """
        starts = self._model.first_slots
        lengths = np.zeros(self._model.sequences, np.int32)
        lengths[: len(prompts)] = [len(prompt) for prompt in prompts]
        first = np.repeat(starts, lengths)
        tokens = np.concatenate([np.array(prompt, np.int32) for prompt in prompts])
        positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
        slots = first + positions
        padding = -tokens.size % BUCKET
        free = np.setdiff1d(np.arange(starts.size * self._model.context, dtype=np.int32), slots)
        alone = np.full(padding, free[0] if padding else 0, np.int32)  # all see the same key
        zeros = np.zeros(padding, np.int32)
        return {
            "tokens": np.concatenate([tokens, zeros]),
            "positions": np.concatenate([positions, zeros]),
            "slots": np.concatenate([slots, free[:padding]]),
            "first": np.concatenate([first, alone]),
            "last": np.concatenate([slots, alone]),
            "row": np.maximum(np.cumsum(lengths, dtype=np.int32) - 1, 0, dtype=np.int32),
            "end": lengths,
            "behind": starts + lengths,
            "ended": (lengths == 0).astype(np.int32),
        }


def answers(
    generator: BatchGenerator, tokenizer: Tokenizer, prompts: Sequence[list[int]]
) -> Iterator[str]:
    """The most probable answer to each prompt, as text.

    Raises:
        BitgraphError: a prompt has no room.
    """
    for tokens in generator.generate(prompts, Sampling(), tokenizer.stop_ids):
        yield tokenizer.decode(tokens)
