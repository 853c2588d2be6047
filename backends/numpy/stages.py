"""How the NumPy backend orders a graph: sweeps over blocks of rows, and independent tasks.

Most nodes of a model treat every token alike. A run of such nodes is one sweep: each block of rows
goes through all of them while it is in the cache, and the blocks are shared out over the cores. The
nodes between sweeps (attention, gradients of weights, the optimizer) are tasks that run side by
side; those that fall apart along another axis, such as attention along its heads, are cut.
"""

from dataclasses import dataclass
from typing import TypeAlias

from ...graph.ir import Graph, Node
from ...graph.ops import op_def
from ...graph.text import format_node


@dataclass(frozen=True)
class Sweep:
    """Nodes that are run together, block by block.

    Attributes:
        nodes: in order; each is cut by rows.
        rows: how many rows there are.
        kept: names of the results that are needed after the sweep; the others live in a block only.
        dying: names of the values that nothing needs after the sweep.
    """

    nodes: tuple[Node, ...]
    rows: int
    kept: frozenset[str]
    dying: tuple[str, ...]


@dataclass(frozen=True)
class Tasks:
    """Nodes that do not depend on each other.

    Attributes:
        nodes: in order.
        dying: names of the values that nothing needs after them.
    """

    nodes: tuple[Node, ...]
    dying: tuple[str, ...]


Stage: TypeAlias = Sweep | Tasks


@dataclass(frozen=True)
class Stages:
    """All stages of a graph; `str()` prints them."""

    name: str
    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        lines = [f"stages @{self.name} {{"]
        for stage in self.stages:
            kind = f"sweep of {stage.rows} rows" if isinstance(stage, Sweep) else "tasks"
            lines.append(f"  {kind}:")
            lines += [f"    {format_node(node)}" for node in stage.nodes]
        return "\n".join([*lines, "}"]) + "\n"


def sweep_rows(node: Node) -> int | None:
    """The number of rows a node is cut into, None if it is not cut by rows."""
    split = op_def(node.op).split
    if split is None or any(axis != 0 for axis in split.outputs):
        return None
    if any(axis not in (0, None) for axis in split.inputs):
        return None
    shapes = [
        value.type.shape for value, axis in zip(node.inputs, split.inputs, strict=True) if axis == 0
    ]
    if not shapes or any(not shape for shape in shapes):
        return None
    return shapes[0][0]


def plan_stages(graph: Graph) -> tuple[Stage, ...]:
    """Cut a graph into stages.

    Nodes keep their order but for one liberty: a task waits until something needs it, so that the
    gradient of a weight does not end the sweep around it.
    """
    planner = _Planner()
    for node in graph.nodes:
        planner.add(node)
    planner.flush()
    return _with_lifetimes(graph, planner.groups)


class _Planner:
    """Collects nodes into an open sweep and the tasks that wait behind it."""

    def __init__(self) -> None:
        self.groups: list[tuple[int | None, list[Node]]] = []
        self._sweep: list[Node] = []
        self._rows: int | None = None
        self._tasks: list[Node] = []
        self._made_by_tasks: set[str] = set()
        self._made_by_sweep: set[str] = set()

    def add(self, node: Node) -> None:
        rows = sweep_rows(node)
        if any(value.name in self._made_by_tasks for value in node.inputs):
            self.flush()
        if rows is None:
            self._tasks.append(node)
            self._made_by_tasks.update(value.name for value in node.outputs)
            return
        if self._sweep and (rows != self._rows or self._reads_whole(node)):
            self.flush()
        self._rows = rows
        self._sweep.append(node)
        self._made_by_sweep.update(value.name for value in node.outputs)

    def flush(self) -> None:
        if self._sweep:
            self.groups.append((self._rows, self._sweep))
        if self._tasks:
            self.groups.append((None, self._tasks))
        self._sweep, self._tasks = [], []
        self._made_by_sweep, self._made_by_tasks = set(), set()

    def _reads_whole(self, node: Node) -> bool:
        """Whether a node needs all rows of something that the open sweep makes."""
        split = op_def(node.op).split
        assert split is not None
        return any(
            axis is None and value.name in self._made_by_sweep
            for value, axis in zip(node.inputs, split.inputs, strict=True)
        )


def _with_lifetimes(graph: Graph, groups: list[tuple[int | None, list[Node]]]) -> tuple[Stage, ...]:
    last: dict[str, int] = {}
    for position, (_, nodes) in enumerate(groups):
        for node in nodes:
            last.update((value.name, position) for value in (*node.inputs, *node.outputs))
    last.update((value.name, len(groups)) for value in graph.outputs)
    persistent = {item.value.name for item in graph.inputs}
    stages: list[Stage] = []
    for position, (rows, nodes) in enumerate(groups):
        made = [value.name for node in nodes for value in node.outputs]
        read = [value.name for node in nodes for value in node.inputs]
        local = {name for name in made if last[name] == position}
        dying = {name for name in (*read, *made) if last[name] == position} - persistent
        if rows is None:
            stages.append(Tasks(tuple(nodes), tuple(sorted(dying))))
        else:
            kept = frozenset(made) - local
            stages.append(Sweep(tuple(nodes), rows, kept, tuple(sorted(dying - local))))
    return tuple(stages)
