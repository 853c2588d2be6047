"""What a picture tells of a graph beyond the graph: phases, and what becomes of every value."""

from dataclasses import dataclass
from enum import StrEnum

from ..analysis import producers, users
from ..ir import Graph, Node, Value
from .execution import Execution

FUSED_OP = "fused"
"""The op that stands for several nodes."""


class Phase(StrEnum):
    """The part of a training step that a node belongs to."""

    FORWARD = "forward"
    RECOMPUTE = "recompute"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"


class Category(StrEnum):
    """What a node or a value is coloured by.

    SAVED: made in the forward pass and kept for what comes after it. RECOMPUTED: made once more.
    FUSED: a node that stands for several. PLAIN: the rest of the forward pass.
    """

    PLAIN = "plain"
    SAVED = "saved"
    RECOMPUTED = "recomputed"
    FUSED = "fused"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"


@dataclass(frozen=True)
class View:
    """A graph as it is shown.

    Attributes:
        graph: what is shown.
        stage: the point of compilation it is taken from, for people.
        phases: of the nodes, in their order.
        categories: of the nodes, in their order.
        value_categories: of every result of a node, by name.
        execution: what a device does with the graph, if that is planned.
    """

    graph: Graph
    stage: str
    phases: tuple[Phase, ...]
    categories: tuple[Category, ...]
    value_categories: dict[str, Category]
    execution: Execution | None = None


def make_view(graph: Graph, stage: str, execution: Execution | None = None) -> View:
    """Find the phases and categories of a graph."""
    phases = tuple(phase_of(node) for node in graph.nodes)
    values = _value_categories(graph)
    categories = tuple(_node_category(node, values) for node in graph.nodes)
    return View(graph, stage, phases, categories, values, execution)


def phase_of(node: Node) -> Phase:
    """The phase that a node's scope tells."""
    parts = node.scope.split("/")
    if "recompute" in parts:
        return Phase.RECOMPUTE
    if "grad" in parts:
        return Phase.BACKWARD
    return Phase.OPTIMIZER if parts[0] == "optimizer" else Phase.FORWARD


def place_of(node: Node) -> tuple[str, ...]:
    """The parts of a node's scope that name a place in the model, without those for the phase."""
    parts = tuple(part for part in node.scope.split("/") if part not in ("grad", "recompute"))
    return parts or ("",)


def title_of(node: Node) -> str:
    """The op, or the pattern of a fused node."""
    return str(node.attributes.get("pattern", node.op)) if node.op == FUSED_OP else node.op


def short_name(node: Node) -> str:
    """The name of a node's first result, without what its scope says already."""
    name, place = node.outputs[0].name, place_of(node)
    for prefix in (".".join(place), place[0]):
        shorter = name.replace(f"{prefix}.", "", 1)
        if shorter != name:
            return shorter
    return name


def shares_of(view: View, position: int) -> tuple[Category, ...]:
    """The colours of a node: a fused one also tells whether its results are saved."""
    category = view.categories[position]
    results = {view.value_categories[v.name] for v in view.graph.nodes[position].outputs}
    if Category.SAVED in results - {category}:
        return Category.SAVED, category
    return (category,)


def saved_bytes(view: View) -> dict[str, int]:
    """Bytes of the saved values by name; a reshape of a saved value takes none of its own."""
    made = producers(view.graph)
    results: dict[str, int] = {}
    for node in view.graph.nodes:
        for value in node.outputs:
            if view.value_categories[value.name] is Category.SAVED:
                root = _root(value, made)
                if root.name in made:
                    results[root.name] = root.type.nbytes
    return results


def _root(value: Value, made: dict[str, Node]) -> Value:
    while value.name in made and made[value.name].op == "reshape":
        value = made[value.name].inputs[0]
    return value


def _value_categories(graph: Graph) -> dict[str, Category]:
    of_phase = {
        Phase.RECOMPUTE: Category.RECOMPUTED,
        Phase.BACKWARD: Category.BACKWARD,
        Phase.OPTIMIZER: Category.OPTIMIZER,
    }
    readers = users(graph)
    categories: dict[str, Category] = {}
    for node in graph.nodes:
        category = of_phase.get(phase_of(node), Category.PLAIN)
        for value in node.outputs:
            kept = any(
                phase_of(user) in (Phase.RECOMPUTE, Phase.BACKWARD) for user in readers[value.name]
            )
            saved = category is Category.PLAIN and kept
            categories[value.name] = Category.SAVED if saved else category
    return categories


def _node_category(node: Node, values: dict[str, Category]) -> Category:
    if node.op == FUSED_OP:
        return Category.FUSED
    results = [values[value.name] for value in node.outputs]
    return Category.SAVED if Category.SAVED in results else results[0]
