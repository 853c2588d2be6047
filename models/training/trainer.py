"""Training LoRA adapters: one compiled program a batch size, one call a step."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from ...graph.errors import BitgraphError
from ...graph.ir import Graph, Node
from ...graph.program import ArenaUse, Backend, Pending, Program
from ...graph.sizes import parse_size
from ...graph.tensors import Array, HostValue
from ...passes.checkpoint.checkpoint import UNLIMITED, BudgetError, Checkpoint
from ...passes.checkpoint.costs import NOMINAL, CostTable
from ...passes.checkpoint.report import Report, report
from ...passes.manager import PassManager
from ...passes.optimizer import initial_state
from ..adapters.lora import LoraAdapter, initial_tensors
from ..bitnet.config import BitNetConfig, projection_shapes
from ..bitnet.forward import embedding_dtype, graph_weights, loss_graph
from ..data.alpaca import Example
from ..data.batching import TokenBatch, epoch_batches
from .evaluation import example_losses, mean_loss
from .options import TrainingOptions, total_steps

WINDOW = 32
"""Steps whose inputs are handed to the backend together."""

BUCKET = 128
"""Token counts are rounded up to a multiple of this, so that few programs serve all batches."""

_STEPS_DOWN = 256
"""A plan that exceeds the budget is made smaller by one part in so many of it at least."""

OnStage = Callable[[int, str, object, float], None]
"""Called with number, name, a printable form and seconds of each stage of compilation."""


@dataclass(frozen=True)
class StepReport:
    """What one training step gave.

    Attributes:
        step: counted from 1.
        total: steps of the run.
        loss: mean over the supervised tokens, before the update.
        grad_norm: global norm before clipping.
        lr: learning rate used.
        tokens: real tokens of the batch, and of these the supervised ones.
        supervised: how many of them carry a label.
        seconds: wall time of the step.
    """

    step: int
    total: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    supervised: int
    seconds: float


class Trainer:
    """A model with adapters under training, on some backend.

    Attributes:
        options: of the run.
        costs: of nodes, measured or estimated.
        steps_done: number of the last step that was begun and did not fail.
        num_parameters: trained ones.
    """

    def __init__(
        self,
        config: BitNetConfig,
        weights: Mapping[str, HostValue],
        backend: Backend,
        options: TrainingOptions,
        on_stage: OnStage | None = None,
        costs: CostTable = NOMINAL,
        bucket: int = BUCKET,
    ) -> None:
        """Load the weights and the initial adapters.

        Args:
            config: the model's geometry.
            weights: as a checkpoint gives them.
            backend: where to compute.
            options: of the run.
            on_stage: sees the graph after every pass of the first training program, and its
                schedule.
            costs: of nodes, which decide what is recomputed where memory is short.
            bucket: token counts are rounded up to a multiple of this.

        Raises:
            BitgraphError: examples may be longer than the model's context.
        """
        if options.max_seq_len > config.max_position_embeddings:
            raise BitgraphError(
                f"max-seq-len is {options.max_seq_len}, but the model's context is "
                f"{config.max_position_embeddings}; choose a smaller --max-seq-len"
            )
        self.options = options
        self._config = config
        self._backend = backend
        self._on_stage = on_stage
        self.costs = costs
        self._bucket = bucket
        self._embedding = embedding_dtype(weights)
        self._programs: dict[tuple[str, int], Program] = {}
        self._reports: dict[int, Report] = {}
        self.steps_done = 0
        self.num_parameters = 0
        backend.load(graph_weights(config, weights))
        self._adapter_names = self._load_adapters()

    def _load_adapters(self) -> tuple[str, ...]:
        shapes = {
            module: shape
            for module, shape in projection_shapes(self._config).items()
            if module.rsplit(".", 1)[-1] in self.options.targets
        }
        tensors = initial_tensors(shapes, self.options.rank, self.options.seed)
        self._backend.load(tensors)
        self._backend.load(initial_state(tensors))
        self.num_parameters = sum(tensor.size for tensor in tensors.values())
        return tuple(tensors)

    def step(self, batch: TokenBatch, step: int, lr: float) -> tuple[float, float]:
        """Update the adapters by one batch; the loss before it and the gradient norm.

        Raises:
            BitgraphError: one of the two is not finite; the adapters are then as before the step,
                and stay so.
        """
        program, inputs = self._program("train", batch.tokens.size), step_inputs(batch, step, lr)
        program.stage([inputs])
        self.steps_done = step
        return self._outcome(_Step(program, program.start(), step, inputs, batch))

    def evaluate(self, examples: Sequence[Example]) -> float:
        """Mean loss over all supervised tokens of a data set."""
        size, bucket = self.options.batch_size, self._bucket
        return mean_loss(example_losses(partial(self._program, "eval"), examples, size, bucket))

    def profile(self, batch: TokenBatch) -> list[tuple[Node, float]]:
        """The nodes of a step that computes nothing twice, and the seconds that each takes.

        The adapters are changed by it.
        """
        graph = loss_graph(self._config, batch.tokens.size, self._embedding)
        graph = replace(graph, outputs=(graph.output("loss"),))
        joint = PassManager(self.options.joint_passes()).run(graph)
        seconds = self._backend.profile(joint, step_inputs(batch, 1, self.options.lr))
        made = ((node, node.outputs[0].name) for node in joint.nodes)
        return [(node, seconds[name]) for node, name in made if name in seconds]

    def adapter(self, base_model: str) -> LoraAdapter:
        """The adapters as they are now."""
        return LoraAdapter(
            rank=self.options.rank,
            alpha=self.options.alpha,
            target_modules=self.options.targets,
            tensors={name: self._backend.read(name) for name in self._adapter_names},
            base_model=base_model,
        )

    def fit(self, examples: Sequence[Example]) -> Iterator[StepReport]:
        """Run all steps, reporting each when it is done or the next is already under way.

        Raises:
            BitgraphError: a step's loss or gradient is not finite; neither it nor one that was
                under way behind it changed anything.
        """
        total = total_steps(self.options, len(examples))
        numbered = islice(enumerate(self._batches(examples), 1), total)
        clock = _Clock()
        under_way: deque[_Step] = deque()
        while window := tuple(islice(numbered, WINDOW)):
            for begun in self._start_window(window, total):
                under_way.append(begun)
                while len(under_way) > 1 or (under_way and under_way[0].pending.done):
                    yield self._report(under_way.popleft(), total, clock)
            while under_way:
                yield self._report(under_way.popleft(), total, clock)

    def _start_window(
        self, window: Sequence[tuple[int, TokenBatch]], total: int
    ) -> Iterator["_Step"]:
        """Hand over the inputs of many steps, then start them one by one."""
        staged: dict[int, list[dict[str, Array]]] = {}
        inputs = {
            step: step_inputs(batch, step, self.options.learning_rate(step, total))
            for step, batch in window
        }
        for step, batch in window:
            staged.setdefault(batch.tokens.size, []).append(inputs[step])
        for tokens in sorted(staged, reverse=True):
            self._program("train", tokens).stage(staged[tokens])
        for step, batch in window:
            program = self._program("train", batch.tokens.size)
            pending = program.start()
            self.steps_done = step
            yield _Step(program, pending, step, inputs[step], batch)

    def _report(self, begun: "_Step", total: int, clock: "_Clock") -> StepReport:
        """Wait for a step."""
        loss, norm = self._outcome(begun)
        batch, lr = begun.batch, float(begun.inputs["lr"])
        tokens, supervised = batch.real_tokens, batch.supervised_tokens
        return StepReport(begun.step, total, loss, norm, lr, tokens, supervised, clock.lap())

    def _outcome(self, begun: "_Step") -> tuple[float, float]:
        """Loss and gradient norm of a step, if both are finite."""
        (results,) = begun.pending.results()
        loss, norm = float(results["loss"]), float(results["grad_norm"])
        if math.isfinite(loss) and math.isfinite(norm):
            return loss, norm
        self.steps_done = begun.step - 1
        where = begun.program.first_nonfinite(begun.inputs)
        culprit = f"; the first tensor of it that is not finite is {where}" if where else ""
        raise BitgraphError(
            f"step {begun.step} gave a loss of {loss} and a gradient norm of {norm}{culprit}; the "
            "adapter is as it was before that step: try a smaller --lr"
        )

    def _batches(self, examples: Sequence[Example]) -> Iterator[TokenBatch]:
        for epoch in range(self.options.epochs):
            yield from epoch_batches(
                examples, self.options.batch_size, self.options.seed, epoch, self._bucket
            )

    def device_bytes(self, examples: Sequence[Example]) -> int:
        """Device memory that the largest batch will take, 0 if the backend computes on the host."""
        return self._largest(examples).device_bytes

    def arenas(self, examples: Sequence[Example]) -> ArenaUse:
        """What of it the values within a step share."""
        return self._largest(examples).arenas

    def report(self, examples: Sequence[Example]) -> Report:
        """What the step of the largest batch saves and computes again."""
        self._largest(examples)
        return self._reports[self._most_tokens(examples)]

    def _largest(self, examples: Sequence[Example]) -> Program:
        return self._program("train", self._most_tokens(examples))

    def _most_tokens(self, examples: Sequence[Example]) -> int:
        """Tokens of the largest batch that these examples can make."""
        most = sorted((example.tokens.size for example in examples), reverse=True)
        tokens = sum(most[: self.options.batch_size])
        return -(-tokens // self._bucket) * self._bucket

    def _program(self, purpose: str, tokens: int) -> Program:
        key = (purpose, tokens)
        if key not in self._programs:
            graph = loss_graph(self._config, tokens, self._embedding)
            if purpose == "train":
                self._programs[key], self._reports[tokens] = self._compile_training(graph)
            else:
                self._programs[key] = self._compile_evaluation(graph)
        return self._programs[key]

    def _compile_evaluation(self, graph: Graph) -> Program:
        return self._backend.compile(PassManager(self.options.evaluation_passes()).run(graph))

    def _compile_training(self, graph: Graph) -> tuple[Program, Report]:
        """The program of a step within the memory budget, and what it saves.

        A plan takes somewhat more than the pass foresees, for gaps and for the inputs of many
        steps. So the pass runs where a plan exceeds the budget, and is told how much more it was.

        Raises:
            BudgetError: nothing fits the budget.
        """
        graph = replace(graph, outputs=(graph.output("loss"),))
        budget = self._memory_budget()
        found = self._compile_with(UNLIMITED, graph)
        reserve = 0
        while budget and found.taken > parse_size(budget):
            least = reserve + parse_size(budget) // _STEPS_DOWN if reserve else 0
            reserve = max(found.taken - found.report.peak, least)
            checkpoint = Checkpoint(budget, self.costs, self._backend.footprint, reserve)
            try:
                found = self._compile_with(checkpoint, graph)
            except BudgetError as error:
                found = self._compile_smallest(checkpoint, graph, error.smallest)
        on_stage, self._on_stage = self._on_stage, None
        if on_stage is not None:
            for stage in found.stages:
                on_stage(*stage)
        return found.program, found.report

    def _compile_smallest(self, checkpoint: Checkpoint, graph: Graph, size: int) -> "_Compiled":
        """The step that saves least, whose plan may fit although it was not foreseen.

        Raises:
            BudgetError: it does not; what it takes is the smallest budget.
        """
        found = self._compile_with(replace(checkpoint, budget=f"{size}B"), graph)
        if found.taken > parse_size(checkpoint.budget):
            raise BudgetError(checkpoint.budget, graph.name, found.taken)
        return found

    def _compile_with(self, checkpoint: Checkpoint, graph: Graph) -> "_Compiled":
        stages: list[tuple[int, str, object, float]] = []
        clock = _Clock()
        passes = self.options.training_passes(checkpoint)
        manager = PassManager(passes, lambda *stage: stages.append((*stage, clock.lap())))
        final = manager.run(graph)
        program = self._backend.compile(final)
        stages.append((len(stages), "schedule", program.schedule, clock.lap()))
        saving = next(s for _, name, s, _ in stages if name == checkpoint.name)
        assert isinstance(saving, Graph)
        found = report(saving, self.costs, self._backend.footprint)
        return _Compiled(program, found, stages)

    def _memory_budget(self) -> str:
        """What the options say, or what the device has."""
        memory = self._backend.memory
        return self.options.memory_budget or (f"{memory >> 20}MiB" if memory is not None else "")


@dataclass(frozen=True)
class _Compiled:
    """A program, what it saves, and the stages that led to it."""

    program: Program
    report: Report
    stages: list[tuple[int, str, object, float]]

    @property
    def taken(self) -> int:
        """Bytes of a step: as planned, or as foreseen where nothing is planned."""
        return self.program.device_bytes or self.report.peak


@dataclass(frozen=True)
class _Step:
    """A step under way."""

    program: Program
    pending: Pending
    step: int
    inputs: Mapping[str, Array]
    batch: TokenBatch


class _Clock:
    """Seconds from one call to the next."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last


def step_inputs(batch: TokenBatch, step: int, lr: float) -> dict[str, Array]:
    """What a training program is given at one step."""
    schedule = {"lr": np.array(lr, np.float32), "step": np.array(step, np.int32)}
    return {**batch.inputs(), **schedule}
