"""What a checkpointed graph saves and recomputes, read off the graph itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from ...graph.analysis import PLAIN, Footprint, lifetimes
from ...graph.ir import Graph, Value
from ...graph.sizes import binary_size
from ..fuse.elementwise import is_elementwise
from .checkpoint import predicted_bytes
from .costs import NOMINAL, CostTable
from .layers import backward_nodes, is_recomputed, layer_of

_SMALL = 50
"""A value is small if it takes less than one part in so many of the layer's largest."""


@dataclass(frozen=True)
class Report:
    """What is saved, and what that costs.

    Attributes:
        peak: bytes that the step takes, inputs included.
        saved: bytes of all values that the forward pass keeps for the backward pass.
        extra: computing time that is added, as a part of what there is without it.
        layers: names of the layers and what each saves.
    """

    peak: int
    saved: int
    extra: float
    layers: tuple[tuple[str, tuple[Value, ...]], ...]

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def report(graph: Graph, costs: CostTable = NOMINAL, footprint: Footprint = PLAIN) -> Report:
    """What a joint graph saves, per layer and in all."""
    backward = backward_nodes(graph)
    saved = [
        (layer_of(graph.nodes[life.begin].scope), life.value)
        for life in lifetimes(graph)
        if not backward[life.begin] and backward[life.end]
    ]
    layers: dict[str, list[Value]] = {}
    for name, value in saved:
        if name:
            layers.setdefault(name, []).append(value)
    free = _free(graph)
    again = sum(
        costs.seconds(node) for node in graph.nodes if is_recomputed(node) and id(node) not in free
    )
    once = sum(costs.seconds(node) for node in graph.nodes if not is_recomputed(node))
    return Report(
        predicted_bytes(graph, footprint),
        sum(value.type.nbytes for _, value in saved),
        again / once if once else 0.0,
        tuple((name, tuple(values)) for name, values in layers.items()),
    )


def _free(graph: Graph) -> set[int]:
    """What is computed again where its operands, all saved or free, are read; see `Layer.free`."""
    clones = {value for node in graph.nodes if is_recomputed(node) for value in node.outputs}
    free: set[int] = set()
    for node in graph.nodes:
        if is_recomputed(node) and is_elementwise(node) and not clones & set(node.inputs):
            free.add(id(node))
            clones -= set(node.outputs)
    return free


def _lines(report: Report) -> Iterator[str]:
    yield (
        f"memory: {binary_size(report.peak)} at the peak, {binary_size(report.saved)} of it saved "
        f"for the backward pass; {report.extra:.1%} more to compute"
    )
    told = [(name, _what_is_saved(name, values)) for name, values in report.layers]
    for text, group in groupby(told, key=lambda item: item[1]):
        numbers = [name.rsplit(".", 1)[-1] for name, _ in group]
        if len(numbers) == 1:
            yield f"layer {numbers[0]} saves {text}"
        else:
            yield f"layers {numbers[0]}-{numbers[-1]} save {text}"


def _what_is_saved(layer: str, values: tuple[Value, ...]) -> str:
    """Names without their layer's, the small ones only counted."""
    least = max(value.type.nbytes for value in values) / _SMALL
    names = [v.name.removeprefix(f"{layer}.") for v in values if v.type.nbytes >= least]
    small = len(values) - len(names)
    return ", ".join(names) + (f" and {small} small values" if small else "")
