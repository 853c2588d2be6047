"""What a training run is asked to do."""

import math
from dataclasses import dataclass

from ...graph.errors import BitgraphError
from ...graph.sizes import parse_size
from ...passes.checkpoint.checkpoint import UNLIMITED, Checkpoint
from ...passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from ...passes.fuse.fuse import Fuse
from ...passes.grad import Grad
from ...passes.lora import Lora
from ...passes.manager import Pass
from ...passes.optimizer import AdamW
from ..bitnet.config import PROJECTIONS


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a run.

    Attributes:
        rank: inner width of every adapter.
        alpha: adapters are scaled by alpha / rank.
        targets: short names of the adapted modules.
        lr: largest learning rate.
        epochs: passes over the data.
        max_steps: stop after so many steps, 0 for no limit.
        batch_size: examples a step.
        max_seq_len: tokens an example is cut to.
        warmup: steps over which the learning rate rises from zero; it then falls along a cosine.
        seed: of the adapter's first values and of the order of examples.
        max_grad_norm: gradients are clipped to this global norm, 0 for no clipping.
        weight_decay: AdamW's.
        memory_budget: of a step on the device, as in 6GiB; empty for what the device has.

    Raises:
        BitgraphError: an option is out of its range.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = tuple(PROJECTIONS)
    lr: float = 2e-4
    epochs: int = 1
    max_steps: int = 0
    batch_size: int = 8
    max_seq_len: int = 512
    warmup: int = 10
    seed: int = 0
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    memory_budget: str = ""

    def __post_init__(self) -> None:
        for name in ("rank", "epochs", "batch_size"):
            self._expect(name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("max_steps", "warmup", "seed", "max_grad_norm", "weight_decay", "lr"):
            value = getattr(self, name)
            self._expect(name, math.isfinite(value) and value >= 0, "must not be negative or nan")
        self._expect("alpha", math.isfinite(self.alpha) and self.alpha > 0, "must be positive")
        if self.memory_budget:
            parse_size(self.memory_budget)
        self._expect("max_seq_len", self.max_seq_len >= 2, "must be at least 2")
        self._expect("targets", bool(self.targets), "must name at least one module")
        for target in self.targets:
            known = f"is not one of {', '.join(PROJECTIONS)}"
            self._expect(f"target {target}", target in PROJECTIONS, known)
        self._expect("targets", len(set(self.targets)) == len(self.targets), "repeats a name")

    def _expect(self, name: str, holds: bool, message: str) -> None:
        if holds:
            return
        if hasattr(self, name):
            name = f"{name.replace('_', '-')} ({getattr(self, name)})"
        raise BitgraphError(f"{name} {message}")

    def lora(self) -> Lora:
        """The pass that adds the adapters."""
        return Lora(rank=self.rank, alpha=self.alpha, targets=self.targets)

    def joint_passes(self) -> tuple[Pass, ...]:
        """From the graph of the loss to that of a whole step, which saves all that it can."""
        optimizer = AdamW(weight_decay=self.weight_decay, max_norm=self.max_grad_norm)
        cleanup = (MergeCommonSubexpressions(), EliminateDeadCode())
        return (self.lora(), Grad(), optimizer, *cleanup)

    def training_passes(self, checkpoint: Checkpoint = UNLIMITED) -> tuple[Pass, ...]:
        """From the graph of the loss to that of a whole step as it runs."""
        return (*self.joint_passes(), checkpoint, Fuse())

    def evaluation_passes(self) -> tuple[Pass, ...]:
        """From the graph of the loss to that of the adapted model's loss."""
        return (self.lora(), MergeCommonSubexpressions(), EliminateDeadCode(), Fuse())

    def learning_rate(self, step: int, total: int) -> float:
        """The rate of a step, counted from 1: linear warm-up, then half a cosine down to zero."""
        if step <= self.warmup:
            return self.lr * step / self.warmup
        progress = (step - self.warmup) / max(total - self.warmup, 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def total_steps(options: TrainingOptions, examples: int) -> int:
    """Steps of a run over so many examples."""
    steps = options.epochs * math.ceil(examples / options.batch_size)
    return min(steps, options.max_steps) if options.max_steps else steps
