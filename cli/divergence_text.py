"""What is printed of a node whose results differ."""

from collections.abc import Container, Iterator
from dataclasses import replace

import numpy as np

from ..backends.divergence import Divergence
from ..graph.ir import Node
from ..graph.tensors import Array, HostValue, Quantized, Ternary
from ..graph.text import format_node

_AROUND = 3
"""Elements that are shown on either side of the largest error."""


def describe(divergence: Divergence, nodes: int, new: Container[str] = ()) -> Iterator[str]:
    """The node, its error and where it is largest, and its operands; a line each.

    Args:
        divergence: the node.
        nodes: how many the graph has.
        new: names of values that the first graph does not have.
    """
    node, worst = divergence.node, divergence.worst
    wanted = divergence.wanted[worst]
    assert wanted is not None
    yield f"node {divergence.position + 1} of {nodes}:"
    yield from _node(node)
    yield (
        f"  {node.outputs[worst]} is off by {divergence.error:.1e} of its largest magnitude, "
        f"{divergence.tolerance:.0e} is allowed"
    )
    yield from _where(_numbers(divergence.given[worst]), _numbers(wanted))
    for value, operand in zip(node.inputs, divergence.operands, strict=True):
        made = ", which only the second graph has" if value.name in new else ""
        yield f"  operand {value}: {value.type}, {_size(_numbers(operand))}{made}"


def _node(node: Node) -> Iterator[str]:
    """A node's line; the graph that a fused one stands for below it."""
    short = tuple((name, value) for name, value in node.attrs if name != "body")
    yield f"  {format_node(replace(node, attrs=short))}"
    yield from (f"    {line}" for line in node.attributes.get("body", "").splitlines())


def _where(given: Array, wanted: Array) -> Iterator[str]:
    """The place of the largest error, and the elements beside it on the last axis."""
    place = _largest(_errors(given, wanted))
    yield f"  largest error at {_index(place)}: {given[place]:.7g} instead of {wanted[place]:.7g}"
    if not place:
        return
    *row, column = place
    begin = max(column - _AROUND, 0)
    for what, values in (("given", given), ("wanted", wanted)):
        beside = values[tuple(row)][begin : column + _AROUND + 1]
        title = f"{what} from {_index((*row, begin))}:"
        yield f"    {title:<24}{'  '.join(f'{x:.7g}' for x in beside)}"


def _errors(given: Array, wanted: Array) -> Array:
    """Distances; infinite where only one of the two is finite."""
    same = (given == wanted) | (np.isnan(given) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        error = np.nan_to_num(np.abs(given - wanted), nan=np.inf, posinf=np.inf)
    return np.where(same, 0.0, error)


def _size(values: Array) -> str:
    """The largest magnitude and its place."""
    if not values.size:
        return "empty"
    place = _largest(np.nan_to_num(np.abs(values), nan=np.inf, posinf=np.inf))
    bad = int(np.count_nonzero(~np.isfinite(values)))
    return f"largest {values[place]:.7g} at {_index(place)}" + (f", {bad} not finite" * (bad > 0))


def _largest(values: Array) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(int(np.argmax(values)), values.shape)))


def _index(place: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, place))}]"


def _numbers(value: HostValue) -> Array:
    """The numbers that a value stands for, in float64."""
    if isinstance(value, Ternary):
        return value.dense(np.float64) * value.scale
    if isinstance(value, Quantized):
        return value.dense(np.float64)
    return value.astype(np.float64)
