"""The pass: under a memory budget, saves the values that are worth it and recomputes the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...graph.analysis import PLAIN, Footprint, input_bytes, live_bytes
from ...graph.ir import Graph
from ...graph.sizes import enough, parse_size
from ...graph.types import GraphError
from .choice import GRAIN, cheapest, smallest
from .costs import NOMINAL, CostTable
from .cut import Policy, policies
from .layers import Layer, find_layers, is_recomputed, structure
from .memory import measure, rewritten


class BudgetError(GraphError):
    """A memory budget that nothing fits; it says the smallest that something does.

    Attributes:
        smallest: that budget, in bytes.
    """

    def __init__(self, budget: str, graph: str, smallest: int) -> None:
        super().__init__(
            f"a memory budget of {budget} is too small for @{graph}; "
            f"the smallest that works is {enough(smallest)}"
        )
        self.smallest = smallest


@dataclass(frozen=True)
class Checkpoint:
    """Keeps a step within a memory budget by computing values again for the backward pass.

    Runs on the joint graph, after the optimizer. What is computed again has the bits it had. What
    costs nothing (`Layer.free`) is computed again in any case.

    Attributes:
        budget: of all memory of the step: inputs (weights, params and states among them) and
            what is alive at once between them; as in ``6GiB``. Empty for no limit.
        costs: of nodes; estimates unless a table was measured.
        footprint: what a backend's kernels make of the memory of nodes.
        reserve: bytes that the step takes besides; a backend's plan tells.
    """

    name: ClassVar[str] = "checkpoint"
    budget: str = ""
    costs: CostTable = NOMINAL
    footprint: Footprint = PLAIN
    reserve: int = 0

    def __call__(self, graph: Graph) -> Graph:
        """The graph with clones in its backward pass.

        Raises:
            BitgraphError: the budget is no size.
            BudgetError: no choice fits it.
        """
        if any(is_recomputed(node) for node in graph.nodes):
            raise GraphError(f"graph @{graph.name} is checkpointed already; run the pass once")
        layers = find_layers(graph)
        offered = _offered(layers, self.costs)
        everything = rewritten(graph, layers, [each[0] for each in offered])
        if not self.budget:
            return everything
        budget = parse_size(self.budget) - self.reserve
        if predicted_bytes(everything, self.footprint) <= budget:
            return everything
        choices = measure(graph, layers, offered, self.footprint)
        chosen = cheapest(choices, budget - input_bytes(graph))
        if chosen is not None:
            result = rewritten(graph, layers, _policies(offered, chosen))
            if predicted_bytes(result, self.footprint) <= budget:
                return result
        least = rewritten(graph, layers, _policies(offered, smallest(choices)))
        needed = predicted_bytes(least, self.footprint)
        if needed <= budget:
            return least
        raise BudgetError(self.budget, graph.name, needed + self.reserve)


UNLIMITED = Checkpoint()
"""The pass that computes again what costs nothing."""


def predicted_bytes(graph: Graph, footprint: Footprint = PLAIN) -> int:
    """Memory that a step takes at its peak: all inputs, and what is alive between them."""
    return input_bytes(graph) + int(live_bytes(graph, footprint, GRAIN).max(initial=0))


def _offered(layers: Sequence[Layer], costs: CostTable) -> tuple[tuple[Policy, ...], ...]:
    """Policies of each layer; those of layers that differ in names alone are found once."""
    known: dict[object, tuple[Policy, ...]] = {}
    for layer in layers:
        key = structure(layer)
        if key not in known:
            known[key] = policies(layer, costs)
    return tuple(known[structure(layer)] for layer in layers)


def _policies(offered: Sequence[Sequence[Policy]], chosen: Sequence[int]) -> tuple[Policy, ...]:
    return tuple(each[k] for each, k in zip(offered, chosen, strict=True))
