"""What a training run is asked to do."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...graph.errors import BitgraphError
from ...graph.sizes import parse_size
from ...passes.accumulate import Accumulate
from ...passes.checkpoint.checkpoint import UNLIMITED, Checkpoint
from ...passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from ...passes.fuse.fuse import Fuse
from ...passes.grad import Grad
from ...passes.lora import Lora
from ...passes.manager import Pass
from ...passes.optimizer import AdamW, Optimizer, Sgd
from ..adapters.lora import LoraAdapter, Tensor
from ..bitnet.config import PROJECTIONS
from ..data.examples import Example, lengths_of
from ..data.ordering import Batching, Layout, plan_epoch
from .schedule import SCHEDULES, learning_rate

OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a run.

    Attributes:
        rank: inner width of every adapter.
        alpha: adapters are scaled by alpha / rank.
        targets: short names of the adapted modules.
        rank_pattern, alpha_pattern: other ranks and alphas for some modules; see the pass `lora`.
        rslora: scale adapters by alpha / sqrt(rank).
        dropout: share of an adapter's inputs that are dropped in training.
        lr: largest learning rate.
        schedule: how the rate falls behind the warm-up, a key of `SCHEDULES`.
        warmup: steps over which the rate rises from zero, or a share of all steps if below 1.
        optimizer: adamw or sgd.
        momentum: of sgd.
        epochs: passes over the data.
        max_steps: stop after so many steps, 0 for no limit.
        batch_size: examples of a batch.
        accumulate: batches a step; their gradients are summed.
        max_seq_len: tokens an example is cut to.
        layout: how examples are laid out in a step; see `Batching`.
        tokens_per_step: slots of a packed step, 0 for batch_size * max_seq_len.
        seed: of the adapter's first values and of the order of examples.
        max_grad_norm: gradients are clipped to this global norm, 0 for no clipping.
        weight_decay: of the optimizer.
        layer_norms: whether every step gives the gradient norm of each layer too.
        no_decay: ends of the names of params that are not decayed, as in lora_B.weight.
        memory_budget: of a step on the device, as in 6GiB; empty for what the device has.

    Raises:
        BitgraphError: an option is out of its range.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = tuple(PROJECTIONS)
    rank_pattern: tuple[str, ...] = ()
    alpha_pattern: tuple[str, ...] = ()
    rslora: bool = False
    dropout: float = 0.0
    lr: float = 2e-4
    schedule: str = "cosine"
    warmup: float = 10
    optimizer: str = "adamw"
    momentum: float = 0.9
    epochs: int = 1
    max_steps: int = 0
    batch_size: int = 8
    accumulate: int = 1
    max_seq_len: int = 512
    layout: Layout = "flat"
    tokens_per_step: int = 0
    seed: int = 0
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()
    layer_norms: bool = True
    memory_budget: str = ""

    def __post_init__(self) -> None:
        for name in ("rank", "epochs", "batch_size", "accumulate"):
            self._expect(name, getattr(self, name) >= 1, "must be at least 1")
        for name in (
            "max_steps",
            "tokens_per_step",
            "warmup",
            "seed",
            "max_grad_norm",
            "weight_decay",
            "lr",
        ):
            value = getattr(self, name)
            self._expect(name, math.isfinite(value) and value >= 0, "must not be negative or nan")
        self._expect("alpha", math.isfinite(self.alpha) and self.alpha > 0, "must be positive")
        if self.memory_budget:
            parse_size(self.memory_budget)
        self._expect("max_seq_len", self.max_seq_len >= 2, "must be at least 2")
        for name in ("dropout", "momentum"):
            self._expect(name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        known = f"is not one of {', '.join(SCHEDULES)}"
        self._expect("schedule", self.schedule in SCHEDULES, known)
        known = f"is not one of {', '.join(OPTIMIZERS)}"
        self._expect("optimizer", self.optimizer in OPTIMIZERS, known)
        whole = self.warmup < 1 or float(self.warmup).is_integer()
        self._expect("warmup", whole, "must be whole steps, or a share of them below 1")
        packed = self.layout == "pack" or not self.tokens_per_step
        self._expect("tokens_per_step", packed, "is the size of packed steps; add --pack")
        self._expect("targets", bool(self.targets), "must name at least one module")
        for target in self.targets:
            known = f"is not one of {', '.join(PROJECTIONS)}"
            self._expect(f"target {target}", target in PROJECTIONS, known)
        self._expect("targets", len(set(self.targets)) == len(self.targets), "repeats a name")
        self._expect_pattern("rank_pattern", "a whole number of at least 1", _is_rank)
        self._expect_pattern("alpha_pattern", "a positive number", _is_alpha)

    def _expect(self, name: str, holds: bool, message: str) -> None:
        if holds:
            return
        if hasattr(self, name):
            name = f"{name.replace('_', '-')} ({getattr(self, name)})"
        raise BitgraphError(f"{name} {message}")

    def _expect_pattern(self, name: str, kind: str, holds: Callable[[float], bool]) -> None:
        """Each entry names a module that gets an adapter, once, and what it gets."""
        entries: tuple[str, ...] = getattr(self, name)
        for entry in entries:
            module, _, value = entry.partition("=")
            good = module.rsplit(".", 1)[-1] in self.targets and _holds(value, holds)
            example = f"{self.targets[0]}=8"
            self._expect(name, good, f"is not a target and {kind}, as in {example}")
        modules = [entry.partition("=")[0] for entry in entries]
        self._expect(name, len(set(modules)) == len(modules), "repeats a module")

    def lora(self) -> Lora:
        """The pass that adds the adapters."""
        return Lora(
            rank=self.rank,
            alpha=self.alpha,
            targets=self.targets,
            rank_pattern=self.rank_pattern,
            alpha_pattern=self.alpha_pattern,
            rslora=self.rslora,
            dropout=self.dropout,
            seed=self.seed % 2**32,
        )

    def batching(self, bucket: int = 1) -> Batching:
        """How examples are shared out over steps, slots rounded up to a multiple of `bucket`."""
        tokens = self.tokens_per_step or self.batch_size * self.max_seq_len
        return Batching(self.layout, self.batch_size, tokens, bucket)

    def optimizer_pass(self) -> Optimizer:
        """The pass that updates the adapters."""
        optimizer = Sgd(momentum=self.momentum) if self.optimizer == "sgd" else AdamW()
        return replace(
            optimizer,
            weight_decay=self.weight_decay,
            no_decay=self.no_decay,
            max_norm=self.max_grad_norm,
            layer_norms=self.layer_norms,
        )

    def adapter(self, tensors: dict[str, Tensor], base_model: str) -> LoraAdapter:
        """The adapter that trained tensors are."""
        return LoraAdapter(
            rank=self.rank,
            alpha=self.alpha,
            target_modules=self.targets,
            tensors=tensors,
            base_model=base_model,
            rslora=self.rslora,
            rank_pattern={name: int(value) for name, value in _pairs(self.rank_pattern)},
            alpha_pattern=dict(_pairs(self.alpha_pattern)),
        )

    def joint_passes(self, last: bool = True, params: Pass | None = None) -> tuple[Pass, ...]:
        """From the graph of the loss to that of a whole step, which saves all that it can.

        Args:
            last: whether the batch is the last of its step; others only add their gradients.
            params: the pass that brings in what is trained, `lora` if none is given.
        """
        passes: list[Pass] = [params or self.lora(), Grad()]
        if self.accumulate > 1:
            passes.append(Accumulate(last))
        if last:
            passes.append(self.optimizer_pass())
        return (*passes, MergeCommonSubexpressions(), EliminateDeadCode())

    def training_passes(
        self, checkpoint: Checkpoint = UNLIMITED, last: bool = True, params: Pass | None = None
    ) -> tuple[Pass, ...]:
        """From the graph of the loss to that of a whole step as it runs; see `joint_passes`."""
        return (*self.joint_passes(last, params), checkpoint, Fuse())

    def evaluation_passes(self, params: Pass | None = None) -> tuple[Pass, ...]:
        """From the graph of the loss to that of the trained model's loss; see `joint_passes`."""
        params = params or replace(self.lora(), dropout=0.0)
        return (params, MergeCommonSubexpressions(), EliminateDeadCode(), Fuse())

    def learning_rate(self, step: int, total: int) -> float:
        """The rate of a step, counted from 1."""
        return learning_rate(self.schedule, self.lr, self.warmup, step, total)


def _is_rank(value: float) -> bool:
    return value >= 1 and value.is_integer()


def _is_alpha(value: float) -> bool:
    return 0 < value < math.inf


def _holds(text: str, holds: Callable[[float], bool]) -> bool:
    """Whether a text is a number of some kind."""
    try:
        return holds(float(text))
    except ValueError:
        return False


def _pairs(pattern: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """``("v_proj=8",)`` -> ``("v_proj", 8.0)``."""
    for entry in pattern:
        name, _, value = entry.partition("=")
        yield name, float(value)


def total_steps(options: TrainingOptions, examples: Sequence[Example]) -> int:
    """Steps of a run over these examples."""
    lengths, batching = lengths_of(examples), options.batching()
    plans = (plan_epoch(lengths, batching, options.seed, n) for n in range(options.epochs))
    steps = sum(math.ceil(len(plan) / options.accumulate) for plan in plans)
    return min(steps, options.max_steps) if options.max_steps else steps
