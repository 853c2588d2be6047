"""What a model says to prompts of the data, before training and after it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...graph.program import Backend
from ...graph.tensors import HostValue
from ..adapters.lora import LoraAdapter
from ..bitnet.config import BitNetConfig
from ..bitnet.generate import Generator, Sampling
from ..bitnet.tokenizer import Tokenizer
from ..data.examples import Example

MAX_TOKENS = 48
"""Tokens of an answer."""

_OPENING = 32
"""Most tokens of the prompt that is made of an example without one."""


@dataclass(frozen=True)
class Answers:
    """Texts.

    Attributes:
        number: of the prompt, counted from 1.
        prompt: what was to be continued.
        expected: how it goes on in the data, as far as an answer may be long.
        before: the base model's answer.
        after: the adapted model's.
    """

    number: int
    prompt: str
    expected: str
    before: str
    after: str


@dataclass(frozen=True)
class Answerer:
    """A model that is asked.

    Attributes:
        config, weights: of the base model.
        backend: where to compute.
        tokenizer: of the model.
        seconds: for all answers; what is not said then is left out.
    """

    config: BitNetConfig
    weights: Mapping[str, HostValue]
    backend: Backend
    tokenizer: Tokenizer
    seconds: float = 60.0

    def answers(
        self, examples: Sequence[Example], adapter: LoraAdapter, max_tokens: int = MAX_TOKENS
    ) -> list[Answers]:
        """Greedy answers to the prompts of examples, without and with an adapter.

        The adapter's tensors are on the backend when it ends, as they were before if they are those
        under training.

        Raises:
            BitgraphError: the device lacks memory.
        """
        parts = [split(example) for example in examples]
        prompts = [prompt for prompt, _ in parts]
        context = max(map(len, prompts)) + max_tokens
        generator = Generator(self.config, self.weights, self.backend, context=context)
        try:
            before = self._all(generator, prompts, max_tokens)
            generator.use(adapter)
            after = self._all(generator, prompts, max_tokens)
        finally:
            self.backend.load(adapter.tensors)
        decode = self.tokenizer.decode
        return [
            Answers(number, decode(prompt), decode(said[:max_tokens]), first, second)
            for number, ((prompt, said), first, second) in enumerate(
                zip(parts, before, after, strict=True), 1
            )
        ]

    def _all(self, generator: Generator, prompts: list[list[int]], most: int) -> list[str]:
        """The answers, in half of the time."""
        end = time.monotonic() + self.seconds / 2
        return [self.tokenizer.decode(self._one(generator, each, most, end)) for each in prompts]

    def _one(self, generator: Generator, prompt: list[int], most: int, end: float) -> list[int]:
        tokens: list[int] = []
        if time.monotonic() < end and len(prompt) < self.config.max_position_embeddings:
            for token in generator.generate(prompt, Sampling(), self.tokenizer.stop_ids, most):
                tokens.append(token)
                if time.monotonic() >= end:
                    break
        return tokens


def split(example: Example) -> tuple[list[int], list[int]]:
    """The tokens before an example's first trained one, and those that follow up to its next gap.

    An example that is trained from its beginning is cut into an opening and the rest.
    """
    trained = example.trained.tolist()
    begin = trained.index(True)
    if begin < 2:
        begin = min(len(trained) // 2, _OPENING) or 1
    end = next((k for k in range(begin, len(trained)) if not trained[k]), len(trained))
    tokens: list[int] = example.tokens.tolist()
    return tokens[:begin], tokens[begin:end]
