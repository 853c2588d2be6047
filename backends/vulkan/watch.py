"""Watching a step: after every node, a look for numbers that are not finite.

For a step that is known to have gone wrong, to name the first result that did. Like a window, the
watch is a rewrite of the schedule; one submission finds the answer.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...graph.ir import Graph, Node, Value
from ...graph.tensors import HostValue
from ...graph.types import DType, GraphError
from .barriers import insert_barriers
from .limits import Limits
from .lowering import label_of
from .lowering.calls import Meaning, groups_for
from .lowering.meanings import arrays
from .plan import Plan
from .schedule import Access, Binding, Buffer, Dispatch, Kind, Slice

FLAGS = "nonfinite.flags"
"""Buffer with a flag for every watched value."""

_GROUP = 256


@dataclass(frozen=True)
class Watch:
    """A plan that looks at what it computes.

    Attributes:
        plan: sets flags in the buffer `FLAGS`, which must hold zeros before.
        watched: node and result that each flag is for, in the order they are computed.
        stride: bytes from one flag to the next.
    """

    plan: Plan
    watched: tuple[tuple[Node, Value], ...]
    stride: int

    def first(self, flags: "np.typing.NDArray[np.uint8]") -> tuple[Node, Value] | None:
        """The first value whose flag is set in the bytes of the buffer."""
        set_flags = np.flatnonzero(flags.view(np.uint32)[:: self.stride // 4])
        return self.watched[set_flags[0]] if set_flags.size else None


def with_watch(plan: Plan, graph: Graph, limits: Limits) -> Watch:
    """Let a plan of a graph look at every f32 result of a node right after that is computed.

    Raises:
        GraphError: the graph has no such result.
    """
    stride = max(4, limits.alignment)
    nodes = {label_of(node): node for node in graph.nodes}
    last = {dispatch.label: k for k, dispatch in enumerate(plan.schedule.dispatches)}
    ending: dict[int, list[Node]] = defaultdict(list)
    for label, k in last.items():
        ending[k].append(nodes[label])
    watched: list[tuple[Node, Value]] = []
    dispatches: list[Dispatch] = []
    for k, dispatch in enumerate(plan.schedule.dispatches):
        dispatches.append(dispatch)
        for node in ending[k]:
            for value in node.outputs:
                if value.type.dtype is DType.F32:
                    flag = Slice(FLAGS, len(watched) * stride, 4)
                    dispatches.append(_look(value, plan.slices[value.name], flag, limits))
                    watched.append((node, value))
    if not watched:
        raise GraphError(f"@{graph.name} has no f32 results to watch")
    flags = Buffer(FLAGS, len(watched) * stride, Kind.STATE)
    schedule = replace(
        plan.schedule,
        buffers=(*plan.schedule.buffers, flags),
        commands=insert_barriers(dispatches),
    )
    return Watch(replace(plan, schedule=schedule), tuple(watched), stride)


def _look(value: Value, place: Slice, flag: Slice, limits: Limits) -> Dispatch:
    bindings = (Binding(place, Access.READ), Binding(flag, Access.UPDATE))
    groups = groups_for(value.type.size, _GROUP, limits)
    constants = (("COUNT", value.type.size),)
    return Dispatch("nonfinite", constants, bindings, groups, f"nonfinite:{value.name}")


def _nonfinite(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    x, flag = arrays(operands, "x", "flag")
    flag |= not np.all(np.isfinite(x))


MEANINGS: dict[str, Meaning] = {"nonfinite": _nonfinite}
