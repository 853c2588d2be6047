"""Values that are other values' bytes: views, copies, and results that begin as a copy."""

from collections.abc import Mapping

from ....graph.ir import Node, Value
from ....graph.tensors import HostValue
from ....graph.types import GraphError
from .calls import Lowering, Meaning, Rule, groups_for, runs_of
from .meanings import arrays

_WORKGROUP = 256


def copy(lowering: Lowering, source: Value, target: Value) -> None:
    """Copy a value of 32-bit elements."""
    for count, (x, y) in runs_of(lowering.limits, source, target):
        groups = flat_groups(lowering, count)
        lowering.call("copy", groups, {"COUNT": count}, x=x, y=y)


def start_from(lowering: Lowering, old: Value, new: Value) -> None:
    """Let `new` hold what `old` holds, to be updated: a copy, unless it takes the place of `old`.

    Raises:
        GraphError: `new` takes the place of something else, which may still be needed.
    """
    donor = lowering.donors.get(new.name)
    if donor is None:
        copy(lowering, old, new)
    elif donor != old:
        raise GraphError(f"{new}, made from {old}, cannot take the place of {donor}")


def flat_groups(lowering: Lowering, count: int) -> tuple[int, int, int]:
    """Workgroups of a kernel that treats elements alike, four at a time if they divide so."""
    items = count // 4 if count % 4 == 0 else count
    return groups_for(items, _WORKGROUP, lowering.limits)


def _reshape(lowering: Lowering, node: Node) -> None:
    (x,), (y,) = node.inputs, node.outputs
    if y.name in lowering.donors or _is_outside(lowering, x):
        copy(lowering, x, y)
    else:
        lowering.view(y, x)


def _is_outside(lowering: Lowering, value: Value) -> bool:
    """Whether a value's bytes belong to an input of the graph, which others may write to."""
    while value.name in lowering.views:
        value = lowering.views[value.name]
    return value.name in lowering.inputs or value.name in lowering.donors


def _copy_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    x, y = arrays(operands, "x", "y")
    y[...] = x


RULES: dict[str, Rule] = {"reshape": _reshape}
MEANINGS: dict[str, Meaning] = {"copy": _copy_meaning}
