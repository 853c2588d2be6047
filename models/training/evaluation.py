"""The loss of a model on a data set, example by example."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...graph.program import Backend, Program
from ...graph.tensors import HostValue
from ...passes.manager import PassManager
from ..adapters.lora import LoraAdapter
from ..bitnet.cached import generation_passes
from ..bitnet.config import BitNetConfig
from ..bitnet.forward import embedding_dtype, graph_weights, loss_graph
from ..data.batching import IGNORE
from ..data.examples import Example, lengths_of
from ..data.ordering import Batching, plan_epoch


@dataclass(frozen=True)
class ExampleLoss:
    """What an example gives.

    Attributes:
        total: sum of the negative log-likelihoods of its supervised tokens, in nats.
        supervised: how many they are.
    """

    total: float
    supervised: int

    @property
    def mean(self) -> float:
        """Loss a supervised token."""
        return self.total / max(self.supervised, 1)


def mean_loss(losses: Iterable[ExampleLoss]) -> float:
    """Mean over all supervised tokens of a data set, not over its examples."""
    all_losses = list(losses)
    count = sum(loss.supervised for loss in all_losses)
    return sum(loss.total for loss in all_losses) / max(count, 1)


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that is beyond the floats."""
    return math.exp(loss) if loss < 700 else math.inf


def example_losses(
    program: Callable[[int], Program], examples: Sequence[Example], batching: Batching
) -> Iterator[tuple[int, ExampleLoss]]:
    """The number of each example, from 0, and its loss; packed ones come in another order.

    Args:
        program: gives that of `loss_graph` for so many tokens.
        examples: of the data set.
        batching: how they are shared out over runs.
    """
    for chosen in plan_epoch(lengths_of(examples), batching, 0, 0, shuffle=False):
        batch = batching.batch([examples[index] for index in chosen])
        nll = program(batch.tokens.size).run(batch.inputs())["nll"]
        starts = np.unique(batch.first)
        for index, start in zip(chosen.tolist(), starts.tolist(), strict=False):
            slots = slice(start, start + examples[index].tokens.size)
            labelled = batch.labels[slots] != IGNORE
            total = np.sum(nll[slots][labelled], dtype=np.float64)
            yield index, ExampleLoss(float(total), int(np.count_nonzero(labelled)))


class Evaluator:
    """A model whose loss is taken, with one adapter or another or none."""

    def __init__(
        self,
        config: BitNetConfig,
        weights: Mapping[str, HostValue],
        backend: Backend,
        batch_size: int,
        bucket: int,
    ) -> None:
        """Load the weights.

        Args:
            config: the model's geometry.
            weights: as a checkpoint gives them.
            backend: where to compute.
            batch_size: examples that run together.
            bucket: token counts are rounded up to a multiple of this.
        """
        self._config = config
        self._backend = backend
        self._batching = Batching(batch_size=batch_size, multiple=bucket)
        self._embedding = embedding_dtype(weights)
        backend.load(graph_weights(config, weights))

    def losses(
        self, examples: Sequence[Example], adapter: LoraAdapter | None = None
    ) -> Iterator[ExampleLoss]:
        """The loss of each example, in their order.

        Raises:
            BitgraphError: the adapter does not fit the model.
        """
        passes = PassManager(generation_passes(self._config, adapter))
        if adapter is not None:
            self._backend.load(adapter.tensors)
        programs: dict[int, Program] = {}

        def program(tokens: int) -> Program:
            if tokens not in programs:
                graph = loss_graph(self._config, tokens, self._embedding)
                programs[tokens] = self._backend.compile(passes.run(graph))
            return programs[tokens]

        return (loss for _, loss in example_losses(program, examples, self._batching))
