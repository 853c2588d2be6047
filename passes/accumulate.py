"""Gradients of several batches, summed before the optimizer sees them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..graph.build import GraphBuilder
from ..graph.ir import Alias, Graph, Role, Value
from ..graph.rewrite import rename
from ..graph.tensors import Array
from ..graph.types import GraphError

_GRADIENT = ".grad"


@dataclass(frozen=True)
class Accumulate:
    """Adds the outputs ``NAME.grad`` to the states ``NAME.sum``, which are 0 at first.

    A step over many batches runs the graph with `last` off for all of them but one: that only
    sums. For the last one, ``NAME.grad`` is the whole sum, and the states become 0 again.
    """

    name: ClassVar[str] = "accumulate"
    last: bool = True

    def __call__(self, graph: Graph) -> Graph:
        """The graph that sums, and with `last` gives the sums.

        Raises:
            GraphError: the graph has no gradients.
        """
        names = [v.name for v in graph.outputs if v.name.endswith(_GRADIENT)]
        if not names:
            raise GraphError(f"graph @{graph.name} has no gradients; run the pass grad first")
        graph = rename(graph, {name: f"{name}.batch" for name in names})
        builder = GraphBuilder.extending(graph)
        outputs = {value.name: value for value in graph.outputs}
        results: list[Value] = []
        aliases: list[Alias] = []
        with builder.scope("accumulate"):
            for name in names:
                gradient = outputs.pop(f"{name}.batch")
                state = _sum_name(name.removesuffix(_GRADIENT))
                old = builder.add_input(state, gradient.type, Role.STATE)
                total = builder.op("add", old, gradient, name=name if self.last else f"{state}.new")
                results.append(total)
                if self.last:
                    zero = builder.op("full_like", total, value=0.0, name=f"{state}.new")
                    results.append(zero)
                aliases.append(Alias(f"{state}.new", state))
        return builder.finish((*outputs.values(), *results), (*graph.aliases, *aliases))


def initial_sums(params: Mapping[str, Array]) -> dict[str, Array]:
    """What the states of `Accumulate` hold before the first batch, by name."""
    return {_sum_name(name): np.zeros_like(value) for name, value in params.items()}


def _sum_name(param: str) -> str:
    return f"{param}.sum"
