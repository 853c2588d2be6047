"""Compiling a step within a memory budget: plan, see what it takes, save less if it must be."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from ...graph.ir import Graph
from ...graph.program import Backend, Program
from ...graph.sizes import parse_size
from ...graph.storage import Storage, cache_folder
from ...graph.text import format_graph
from ...passes.checkpoint.checkpoint import UNLIMITED, BudgetError, Checkpoint
from ...passes.checkpoint.costs import CostTable
from ...passes.checkpoint.report import Report, report
from ...passes.manager import Pass, PassManager

Stage: TypeAlias = tuple[int, str, object, float]
"""Number, name, a printable form and seconds of a stage of compilation."""

_STEPS_DOWN = 256
"""A plan that exceeds the budget is made smaller by one part in so many of it at least."""


@dataclass(frozen=True)
class CompiledStep:
    """A program, what it saves, and the stages that led to it."""

    program: Program
    report: Report
    stages: tuple[Stage, ...]

    @property
    def taken(self) -> int:
        """Bytes of a step: as planned, or as foreseen where nothing is planned."""
        return self.program.device_bytes or self.report.peak


@dataclass(frozen=True)
class StepCompiler:
    """Makes programs of graphs of the loss.

    Attributes:
        backend: to compile for.
        passes: those of a step, around the one that decides what is saved.
        costs: of nodes, measured or estimated.
    """

    backend: Backend
    passes: Callable[[Checkpoint], Sequence[Pass]]
    costs: CostTable

    def within(self, budget: str, graph: Graph) -> CompiledStep:
        """The program of a step within a budget, as in ``6GiB``; empty for no limit.

        A plan takes somewhat more than the pass foresees, for gaps and for the inputs of many
        steps. So the pass runs where a plan exceeds the budget, and is told how much more it was.
        What it had to be told in the end is kept for the next run.

        Raises:
            BudgetError: nothing fits the budget.
        """
        known = self._known(budget, graph)
        if known is not None:
            return known
        found = self._compile(UNLIMITED, graph)
        reserve = 0
        while budget and found.taken > parse_size(budget):
            least = reserve + parse_size(budget) // _STEPS_DOWN if reserve else 0
            reserve = max(found.taken - found.report.peak, least)
            checkpoint = Checkpoint(budget, self.costs, self.backend.footprint, reserve)
            try:
                found = self._compile(checkpoint, graph)
            except BudgetError as error:
                found = self._compile_smallest(checkpoint, graph, error.smallest)
        if reserve:
            self._storage.write(graph.name, self._key(budget, graph), str(reserve).encode())
        return found

    def _known(self, budget: str, graph: Graph) -> CompiledStep | None:
        """The step as an earlier run found it, if there is one that still fits."""
        kept = self._storage.read(graph.name, self._key(budget, graph)) if budget else None
        if kept is None:
            return None
        checkpoint = Checkpoint(budget, self.costs, self.backend.footprint, int(kept))
        try:
            found = self._compile(checkpoint, graph)
        except BudgetError:
            return None
        return found if found.taken <= parse_size(budget) else None

    @property
    def _storage(self) -> Storage:
        return Storage(cache_folder() / "budgets")

    def _key(self, budget: str, graph: Graph) -> str:
        """What the outcome depends on. If something is missing here, the step is found anew."""
        passes = [step for step in self.passes(UNLIMITED) if step is not UNLIMITED]
        return f"{budget}\n{self.backend.name}\n{passes}\n{format_graph(graph)}"

    def _compile_smallest(self, checkpoint: Checkpoint, graph: Graph, size: int) -> CompiledStep:
        """The step that saves least, whose plan may fit although it was not foreseen.

        Raises:
            BudgetError: it does not; what it takes is the smallest budget.
        """
        found = self._compile(replace(checkpoint, budget=f"{size}B"), graph)
        if found.taken > parse_size(checkpoint.budget):
            raise BudgetError(checkpoint.budget, graph.name, found.taken)
        return found

    def _compile(self, checkpoint: Checkpoint, graph: Graph) -> CompiledStep:
        stages: list[Stage] = []
        clock = _Clock()
        passes = self.passes(checkpoint)
        manager = PassManager(passes, lambda *stage: stages.append((*stage, clock.lap())))
        program = self.backend.compile(manager.run(graph))
        stages.append((len(stages), "schedule", program.schedule, clock.lap()))
        saving = next(made for _, name, made, _ in stages if name == checkpoint.name)
        assert isinstance(saving, Graph)
        found = report(saving, self.costs, self.backend.footprint)
        return CompiledStep(program, found, tuple(stages))


class _Clock:
    """Seconds from one call to the next."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last
