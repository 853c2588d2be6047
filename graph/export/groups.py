"""Nodes grouped by phase and scope, and the rows of a layered drawing of every group.

Rows and the order in them do not depend on what is open and how large it is drawn. So they are
found once, and a drawing only has to give them coordinates (`layout`, and the page's script).

Layering by longest paths and ordering by barycenters: Sugiyama, Tagawa and Toda, 1981.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..types import GraphError
from .view import Phase, View, place_of

_SWEEPS = 8
_WIDEST_ROW = 12
_MOST_READERS = 4


@dataclass(frozen=True)
class Group:
    """The nodes of one phase below one scope.

    Attributes:
        phase: of all its nodes.
        scope: where they come from, without the parts that name the phase.
        children: positions of nodes, and groups one level below.
        links: pairs of children, where one reads what the other makes.
        rows: the layered drawing. A number is a child; ``-1 - k`` is a bend of link k.
    """

    phase: Phase
    scope: str
    children: tuple["int | Group", ...]
    links: tuple[tuple[int, int], ...]
    rows: tuple[tuple[int, ...], ...]

    @property
    def key(self) -> str:
        """A name that is unique in a picture."""
        return f"{self.phase}:{self.scope}"


Path: TypeAlias = tuple[str, ...]


def group_nodes(view: View) -> tuple[Group, ...]:
    """The groups of the first level, in the order of their first nodes."""
    roots: dict[tuple[Phase, str], _Draft] = {}
    chains: list[list[_Draft]] = []
    for position, (node, phase) in enumerate(zip(view.graph.nodes, view.phases, strict=True)):
        path = place_of(node)
        draft = roots.setdefault((phase, path[0]), _Draft(phase, path[0]))
        chain = [draft]
        for part in path[1:]:
            chain.append(chain[-1].below(part))
        chain[-1].add(position)
        chains.append(chain)
    for source, target in edges(view):
        _link(chains[source], source, chains[target], target)
    return tuple(draft.finish() for draft in roots.values())


def edges(view: View) -> Iterator[tuple[int, int]]:
    """Positions of nodes and of those that read what they make, each pair once."""
    made = {v.name: k for k, node in enumerate(view.graph.nodes) for v in node.outputs}
    for target, node in enumerate(view.graph.nodes):
        sources = (made[value.name] for value in node.inputs if value.name in made)
        for source in dict.fromkeys(sources):
            yield source, target


def broad_values(view: View) -> list[str]:
    """Values that so many groups read that lines to all of them would hide the rest."""
    made = {v.name for node in view.graph.nodes for v in node.outputs}
    readers: dict[str, set[tuple[Phase, str]]] = {}
    for node, phase in zip(view.graph.nodes, view.phases, strict=True):
        for value in node.inputs:
            if value.name in made:
                readers.setdefault(value.name, set()).add((phase, place_of(node)[0]))
    return [name for name, groups in readers.items() if len(groups) > _MOST_READERS]


def scopes(groups: Sequence[Group]) -> set[str]:
    """Scopes of all groups on all levels."""
    found: set[str] = set()
    for group in groups:
        found.add(group.scope)
        found |= scopes([child for child in group.children if isinstance(child, Group)])
    return found


def open_scopes(groups: Sequence[Group], wanted: Sequence[str]) -> set[str]:
    """Wanted scopes and those around them.

    Raises:
        GraphError: there is no such scope.
    """
    known = scopes(groups)
    for scope in wanted:
        if scope not in known:
            tops = ", ".join(dict.fromkeys(group.scope for group in groups if group.scope))
            raise GraphError(f"there is no scope '{scope}' to open; the outer ones are {tops}")
    parts = [scope.split("/") for scope in wanted]
    return {"/".join(names[: k + 1]) for names in parts for k in range(len(names))}


def members_of(group: Group) -> Iterator[int]:
    """Positions of all nodes in a group."""
    for child in group.children:
        if isinstance(child, Group):
            yield from members_of(child)
        else:
            yield child


@dataclass
class _Draft:
    """A group under construction; children are named by position or by part of the scope."""

    phase: Phase
    scope: str
    names: dict[int | str, "int | _Draft"] = field(default_factory=dict)
    links: dict[tuple[int | str, int | str], None] = field(default_factory=dict)

    def below(self, part: str) -> "_Draft":
        child = self.names.setdefault(part, _Draft(self.phase, f"{self.scope}/{part}"))
        assert isinstance(child, _Draft)
        return child

    def add(self, position: int) -> None:
        self.names[position] = position

    def finish(self) -> Group:
        """Children in the order of their first nodes, so a link that leads back closes a cycle."""
        places = {name: k for k, name in enumerate(self.names)}
        pairs = [(places[a], places[b]) for a, b in self.links]
        links = tuple((a, b) for a, b in pairs if a < b)
        children = tuple(
            child.finish() if isinstance(child, _Draft) else child for child in self.names.values()
        )
        rows = _rows(len(children), links)
        return Group(self.phase, self.scope, children, links, rows)


def _link(sources: list[_Draft], source: int, targets: list[_Draft], target: int) -> None:
    """Note an edge in the innermost group that holds both of its ends."""
    depth = 0
    while depth < min(len(sources), len(targets)) and sources[depth] is targets[depth]:
        depth += 1
    if not depth:
        return
    names = [
        chain[depth].scope.rsplit("/", 1)[-1] if depth < len(chain) else node
        for chain, node in ((sources, source), (targets, target))
    ]
    sources[depth - 1].links[names[0], names[1]] = None


def _rows(count: int, links: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    layers = _layers(count, links)
    rows: list[list[int]] = [[] for _ in range(max(layers, default=-1) + 1)]
    for child, layer in enumerate(layers):
        rows[layer].append(child)
    neighbours: list[dict[int, list[int]]] = [{} for _ in rows]
    for k, (a, b) in enumerate(links):
        for layer in range(layers[a] + 1, layers[b]):
            rows[layer].append(-1 - k)
        for layer in range(layers[a], layers[b]):
            above = a if layer == layers[a] else -1 - k
            below = b if layer + 1 == layers[b] else -1 - k
            neighbours[layer].setdefault(above, []).append(below)
    _order(rows, neighbours)
    return tuple(part for row in rows for part in _wrap(row))


def _layers(count: int, links: Sequence[tuple[int, int]]) -> list[int]:
    """Every child below all that it reads, and as near as can be to its first reader."""
    layers = [0] * count
    for a, b in sorted(links, key=lambda link: link[1]):
        layers[b] = max(layers[b], layers[a] + 1)
    targets = {b for _, b in links}
    for child in range(count):
        readers = [layers[b] for a, b in links if a == child]
        if child not in targets and readers:
            layers[child] = min(readers) - 1
    return layers


def _order(rows: list[list[int]], below: Sequence[Mapping[int, list[int]]]) -> None:
    """Sort every row by where its neighbours stand, downwards and upwards in turn."""
    above: list[dict[int, list[int]]] = [{} for _ in rows]
    for layer, targets in enumerate(below[:-1]):
        for source, readers in targets.items():
            for reader in readers:
                above[layer + 1].setdefault(reader, []).append(source)
    for sweep in range(_SWEEPS):
        if sweep % 2:
            for layer in range(len(rows) - 2, -1, -1):
                _sort_row(rows[layer], rows[layer + 1], below[layer])
        else:
            for layer in range(1, len(rows)):
                _sort_row(rows[layer], rows[layer - 1], above[layer])


def _sort_row(row: list[int], fixed: list[int], neighbours: Mapping[int, list[int]]) -> None:
    places = {slot: (k + 0.5) / len(fixed) for k, slot in enumerate(fixed)}
    keys = {}
    for k, slot in enumerate(row):
        known = [places[other] for other in neighbours.get(slot, ())]
        keys[slot] = sum(known) / len(known) if known else (k + 0.5) / len(row)
    row.sort(key=keys.__getitem__)


def _wrap(row: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """A row that is too wide, in several."""
    width = _WIDEST_ROW if sum(slot >= 0 for slot in row) > _WIDEST_ROW else len(row)
    for begin in range(0, len(row), width):
        yield tuple(row[begin : begin + width])
