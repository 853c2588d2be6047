"""Training on some backend: one compiled program a batch size, one call a step."""

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
from ...graph.tensors import Array, HostValue
from ...passes.accumulate import initial_sums
from ...passes.checkpoint.costs import NOMINAL, CostTable
from ...passes.checkpoint.report import Report
from ...passes.manager import PassManager
from ...passes.optimizer import LAYER_NORM, initial_state
from ..bitnet.config import BitNetConfig
from ..bitnet.forward import embedding_dtype, graph_weights, loss_graph
from ..bitnet.weights import model_digest
from ..data.batching import TokenBatch, share_weights
from ..data.examples import Example, lengths_of
from ..data.ordering import plan_epoch
from .budget import CompiledStep, StepCompiler
from .evaluation import example_losses, mean_loss
from .options import TrainingOptions, total_steps
from .subjects import Adapters, Subject

WINDOW = 32
"""Steps whose inputs are handed to the backend together."""

BUCKET = 128
"""Token counts are rounded up to a multiple of this, so that few programs serve all batches."""

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
        layer_norms: the norm of each layer alone, if the options ask for it.
        lr: learning rate used.
        tokens: real tokens of the batch.
        supervised: how many of them carry a label.
        slots: tokens that the program computed, padding included.
        seconds: wall time of the step.
    """

    step: int
    total: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    supervised: int
    slots: int
    seconds: float
    layer_norms: tuple[float, ...] = ()


class Trainer:
    """A model under training, on some backend.

    Attributes:
        options: of the run.
        subject: what is trained.
        costs: of nodes, measured or estimated.
        steps_done: number of the last step that was begun and did not fail.
        num_parameters: trained ones.
        names: of the trained tensors.
        model_digest: tells the model from others.
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
        subject: Subject | None = None,
    ) -> None:
        """Load the weights and what training begins with.

        Args:
            config: the model's geometry.
            weights: as a checkpoint gives them.
            backend: where to compute.
            options: of the run.
            on_stage: sees the graph after every pass of the first training program, and its
                schedule.
            costs: of nodes, which decide what is recomputed where memory is short.
            bucket: token counts are rounded up to a multiple of this.
            subject: what is trained, adapters if it is not given.

        Raises:
            BitgraphError: examples may be longer than the model's context.
        """
        if options.max_seq_len > config.max_position_embeddings:
            raise BitgraphError(
                f"max-seq-len is {options.max_seq_len}, but the model's context is "
                f"{config.max_position_embeddings}; choose a smaller --max-seq-len"
            )
        self.options = options
        self.subject = subject or Adapters(options)
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
        self.model_digest = model_digest(config, weights)
        self.names, self._state_names = self._load(weights)

    def _load(self, weights: Mapping[str, HostValue]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Load what training begins with; the names of the params and of all else it changes."""
        tensors = self.subject.initial(self._config, weights)
        values = graph_weights(self._config, weights)
        self._backend.load({name: values[name] for name in values if name not in tensors})
        state = initial_state(self.options.optimizer_pass(), tensors)
        sums = initial_sums(tensors) if self.options.accumulate > 1 else {}
        self._backend.load({**tensors, **state, **sums})
        self.num_parameters = sum(tensor.size for tensor in tensors.values())
        return tuple(tensors), tuple(state)

    def step(self, batch: TokenBatch, step: int, lr: float) -> tuple[float, float]:
        """Update the params by one batch; the loss before it and the gradient norm.

        Raises:
            BitgraphError: one of the two is not finite; the params are then as before the step,
                and stay so.
        """
        part = _Part(step, 0, True, lr, batch)
        program = self._program("train", batch.tokens.size)
        program.stage([part.inputs()])
        self.steps_done = step
        outcome = self._outcome(_Begun(part, program, program.start()))
        return outcome.loss, outcome.norm

    def evaluate(self, examples: Sequence[Example]) -> float:
        """Mean loss over all supervised tokens of a data set."""
        batching = self.options.batching(self._bucket)
        losses = example_losses(partial(self._program, "eval"), examples, batching)
        return mean_loss(loss for _, loss in losses)

    def profile(self, batch: TokenBatch) -> list[tuple[Node, float]]:
        """The nodes of a step that computes nothing twice, and the seconds that each takes.

        The params are changed by it.
        """
        graph = loss_graph(self._config, batch.tokens.size, self._embedding)
        graph = replace(graph, outputs=(graph.output("loss"),))
        joint = PassManager(self.options.joint_passes(params=self.subject.params())).run(graph)
        seconds = self._backend.profile(joint, step_inputs(batch, 1, self.options.lr))
        made = ((node, node.outputs[0].name) for node in joint.nodes)
        return [(node, seconds[name]) for node, name in made if name in seconds]

    def tensors(self) -> dict[str, Array]:
        """The params as they are now, by name."""
        return self._backend.read_all(self.names)

    def state(self) -> dict[str, Array]:
        """Everything that steps change, behind the last one: what a checkpoint holds.

        It must not be asked for between two batches of one step.
        """
        return self._backend.read_all((*self.names, *self._state_names))

    def restore(self, state: Mapping[str, Array], step: int) -> None:
        """Go on from a `state` behind a step.

        Raises:
            BitgraphError: it is not the state of such a run.
        """
        now = self.state()
        for name, value in now.items():
            given = state.get(name)
            if given is None or (given.shape, given.dtype) != (value.shape, value.dtype):
                raise BitgraphError(
                    f"the checkpoint has no {name} of shape {list(value.shape)} and type "
                    f"{value.dtype}; go on from another, or train into another --out"
                )
        self._backend.load({name: state[name] for name in now})
        self.steps_done = step

    def fit(
        self,
        examples: Sequence[Example],
        begin: int = 0,
        pause: Callable[[int], bool] = lambda step: False,
    ) -> Iterator[StepReport]:
        """Run the steps, reporting each when it is done or the next is already under way.

        Args:
            examples: to train on.
            begin: steps to leave out, because they were done before.
            pause: called with each step once it was begun; if it holds, nothing more is begun
                before the step's report was taken, so that `state` is the one behind that step.

        Raises:
            BitgraphError: a step's loss or gradient is not finite; neither it nor one that was
                under way behind it changed anything.
        """
        total = total_steps(self.options, examples)
        parts = self._parts(examples, total, begin)
        reporter = _Reporter(total)
        under_way: deque[_Begun] = deque()
        while window := tuple(islice(parts, WINDOW)):
            for begun in self._start_window(window):
                under_way.append(begun)
                pauses = begun.part.last and pause(begun.part.step)
                while len(under_way) > (not pauses) or (under_way and under_way[0].pending.done):
                    yield from self._finish(under_way.popleft(), reporter)
            while under_way:
                yield from self._finish(under_way.popleft(), reporter)

    def _parts(self, examples: Sequence[Example], total: int, begin: int) -> Iterator["_Part"]:
        """The batches of all steps but the first `begin`, in order."""
        steps = islice(enumerate(self._steps(examples), 1), begin, total)
        for step, batches in steps:
            rate = self.options.learning_rate(step, total)
            for number, batch in enumerate(batches, 1):
                draw = (step - 1) * self.options.accumulate + number
                yield _Part(step, draw, number == len(batches), rate, batch)

    def _steps(self, examples: Sequence[Example]) -> Iterator[tuple[TokenBatch, ...]]:
        """The batches of each step, weighted as one large batch would be."""
        options, lengths = self.options, lengths_of(examples)
        batching = options.batching(self._bucket)
        for epoch in range(options.epochs):
            plan = plan_epoch(lengths, batching, options.seed, epoch)
            batches = (batching.batch([examples[index] for index in chosen]) for chosen in plan)
            while step := tuple(islice(batches, options.accumulate)):
                yield share_weights(step) if options.accumulate > 1 else step

    def _start_window(self, window: Sequence["_Part"]) -> Iterator["_Begun"]:
        """Hand over the inputs of many batches, then start them one by one."""
        staged: dict[tuple[str, int], list[dict[str, Array]]] = {}
        for part in window:
            staged.setdefault(part.program, []).append(part.inputs())
        for key in sorted(staged, key=lambda key: -key[1]):
            self._program(*key).stage(staged[key])
        for part in window:
            program = self._program(*part.program)
            pending = program.start()
            if part.last:
                self.steps_done = part.step
            yield _Begun(part, program, pending)

    def _finish(self, begun: "_Begun", reporter: "_Reporter") -> Iterator[StepReport]:
        """Wait for a batch; the report of its step, if it was the last."""
        outcome = self._outcome(begun)
        reporter.add(begun.part.batch, outcome.loss)
        if begun.part.last:
            yield reporter.report(begun.part, outcome)

    def _outcome(self, begun: "_Begun") -> "_Outcome":
        """What a batch gave, if its loss and its gradient norm are finite."""
        (results,) = begun.pending.results()
        loss, norm = float(results["loss"]), float(results.get("grad_norm", 0.0))
        if math.isfinite(loss) and math.isfinite(norm):
            layers = (value for name, value in results.items() if name.startswith(LAYER_NORM))
            return _Outcome(loss, norm, tuple(map(float, layers)))
        self.steps_done = begun.part.step - 1
        where = begun.program.first_nonfinite(begun.part.inputs())
        culprit = f"; the first tensor of it that is not finite is {where}" if where else ""
        raise BitgraphError(
            f"step {begun.part.step} gave a loss of {loss} and a gradient norm of {norm}{culprit}; "
            f"the {self.subject.noun} is as it was before that step: try a smaller --lr"
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
        return self.options.batching(self._bucket).most_slots(lengths_of(examples))

    def _program(self, purpose: str, tokens: int) -> Program:
        key = (purpose, tokens)
        if key not in self._programs:
            graph = loss_graph(self._config, tokens, self._embedding)
            if purpose == "eval":
                self._programs[key] = self._compile_evaluation(graph)
            else:
                compiled = self._compile_training(graph, last=purpose == "train")
                self._programs[key], self._reports[tokens] = compiled.program, compiled.report
        return self._programs[key]

    def _compile_evaluation(self, graph: Graph) -> Program:
        passes = self.options.evaluation_passes(self.subject.params(training=False))
        return self._backend.compile(PassManager(passes).run(graph))

    def _compile_training(self, graph: Graph, last: bool) -> CompiledStep:
        """The program of a batch within the memory budget."""
        graph = replace(graph, outputs=(graph.output("loss"),))
        params = self.subject.params()
        passes = partial(self.options.training_passes, last=last, params=params)
        memory = self._backend.memory
        given = f"{memory >> 20}MiB" if memory is not None else ""
        budget = self.options.memory_budget or given
        found = StepCompiler(self._backend, passes, self.costs).within(budget, graph)
        on_stage, self._on_stage = self._on_stage, None
        if on_stage is not None:
            for stage in found.stages:
                on_stage(*stage)
        return found


@dataclass(frozen=True)
class _Part:
    """One of the batches of a step.

    Attributes:
        step: counted from 1.
        draw: the number of the batch in the run, for its dropout masks.
        last: whether the step's update follows.
        lr: of that update.
    """

    step: int
    draw: int
    last: bool
    lr: float
    batch: TokenBatch

    @property
    def program(self) -> tuple[str, int]:
        """Purpose and tokens of the program that it needs."""
        return "train" if self.last else "accumulate", self.batch.tokens.size

    def inputs(self) -> dict[str, Array]:
        """Values for the program's inputs."""
        return step_inputs(self.batch, self.step, self.lr, self.draw)


@dataclass(frozen=True)
class _Begun:
    """A batch under way."""

    part: _Part
    program: Program
    pending: Pending


@dataclass(frozen=True)
class _Outcome:
    """What a batch gave; all but the last of a step have no norms."""

    loss: float
    norm: float
    layers: tuple[float, ...]


class _Reporter:
    """Adds up the batches of a step."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._last = time.perf_counter()
        self._loss = 0.0
        self._batches: list[TokenBatch] = []

    def add(self, batch: TokenBatch, loss: float) -> None:
        """Count a batch; the losses of a step's batches add up to the step's."""
        self._loss += loss
        self._batches.append(batch)

    def report(self, part: _Part, outcome: _Outcome) -> StepReport:
        """The report of the batches since the last one."""
        now = time.perf_counter()
        report = StepReport(
            step=part.step,
            total=self._total,
            loss=self._loss,
            grad_norm=outcome.norm,
            lr=part.lr,
            tokens=sum(batch.real_tokens for batch in self._batches),
            supervised=sum(batch.supervised_tokens for batch in self._batches),
            slots=sum(batch.tokens.size for batch in self._batches),
            seconds=now - self._last,
            layer_norms=outcome.layers,
        )
        self._last, self._loss, self._batches = now, 0.0, []
        return report


def step_inputs(batch: TokenBatch, step: int, lr: float, draw: int = 0) -> dict[str, Array]:
    """What a training program is given for a batch, and perhaps more.

    Args:
        batch: the batch.
        step: its step, counted from 1.
        lr: learning rate of the step.
        draw: number of the batch in the run, for its dropout masks.
    """
    return {
        **batch.inputs(),
        "lr": np.array(lr, np.float32),
        "step": np.array(step, np.int32),
        "draw": np.array(draw, np.int32),
    }
