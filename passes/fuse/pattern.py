"""Patterns: what a group of nodes looks like, written as a few statements, and their matcher.

::

    gated  = mul(active, up)
    normed = rms_norm(gated, weight)
    codes  = quantize(normed)

Names stand for values: equal names for the same value, other names for any. ``a|b`` is either op,
``_`` any operand. The first statement is looked for; every other one must share a name with those
before it.
"""

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import cached_property

from ...graph.ir import Node, Value
from ...graph.types import GraphError
from .view import View, fits, key, needed_outside, read_by

COMMUTATIVE = frozenset({"add", "mul"})
ANY = "_"

_STATEMENT = re.compile(r"([\w, ]+?)\s*=\s*([\w|]+)\(([\w, ]*)\)")


@dataclass(frozen=True)
class Statement:
    """One line of a pattern."""

    results: tuple[str, ...]
    ops: tuple[str, ...]
    operands: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """What the names of a pattern stand for.

    Attributes:
        values: by name.
        nodes: in the order of the statements.
    """

    values: dict[str, Value] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()

    def __getitem__(self, name: str) -> Value:
        return self.values[name]


@dataclass(frozen=True)
class Pattern:
    """A row of the table.

    Attributes:
        name: of the pattern; it chooses the kernel.
        text: its statements.
        also: names of results that are used inside, and may be needed outside too. Results that
            nothing inside uses always may.
        absorbs: ops that join the group with what they make of its operands, if nothing else reads
            that.
    """

    name: str
    text: str
    also: tuple[str, ...] = ()
    absorbs: tuple[str, ...] = ()

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """The lines of the text.

        Raises:
            GraphError: a line is no statement.
        """
        return tuple(_statement(line) for line in self.text.strip().splitlines())

    @cached_property
    def kept_inside(self) -> frozenset[str]:
        """Names of results that must not be needed outside."""
        used = {name for line in self.statements for name in line.operands}
        made = {name for line in self.statements for name in line.results}
        return frozenset(made & used - set(self.also))

    def find(self, view: View) -> Iterator[tuple[Node, ...]]:
        """Groups of nodes that look like this, none sharing a node."""
        taken: set[str] = set()
        for node in view.graph.nodes:
            for match in self._matches(view, node):
                members = {key(member) for member in match.nodes}
                if not members & taken and self._may_leave(view, match):
                    group = self._absorb(view, match.nodes, taken)
                    taken |= {key(member) for member in group}
                    yield group
                    break

    def bind(self, node: Node) -> Match:
        """What the names stand for in a fused node of this pattern.

        Raises:
            GraphError: its body does not look like this.
        """
        view = View.inside(node)
        nodes = view.graph.nodes
        for first in nodes:
            for match in self._matches(view, first):
                if len(match.nodes) == len(nodes) or self.absorbs:
                    return match
        raise GraphError(f"the body of {node.outputs[0]} is not of the pattern {self.name}")

    def _may_leave(self, view: View, match: Match) -> bool:
        outside = set(needed_outside(view, match.nodes))
        return not any(match[name] in outside for name in self.kept_inside)

    def _absorb(self, view: View, group: tuple[Node, ...], taken: Set[str]) -> tuple[Node, ...]:
        """The group with the nodes that make its operands, as many as one kernel can take."""
        for value in read_by(group) if self.absorbs else ():
            node = view.producers.get(value.name)
            if node is None or node.op not in self.absorbs or key(node) in taken:
                continue
            longer = (node, *group)
            if fits(view, longer) and value not in needed_outside(view, longer):
                return self._absorb(view, longer, taken)
        return group

    def _matches(self, view: View, first: Node) -> Iterator[Match]:
        for match in _bind(Match(), self.statements[0], first):
            yield from self._extend(view, match)

    def _extend(self, view: View, match: Match) -> Iterator[Match]:
        if len(match.nodes) == len(self.statements):
            yield match
            return
        line = self.statements[len(match.nodes)]
        for node in _candidates(view, match, line):
            if all(node is not other for other in match.nodes):
                for longer in _bind(match, line, node):
                    yield from self._extend(view, longer)


def _statement(line: str) -> Statement:
    parsed = _STATEMENT.fullmatch(line.strip())
    if parsed is None:
        raise GraphError(f"'{line.strip()}' is not a statement such as y = add(a, b)")
    results, ops, operands = parsed.groups()
    return Statement(_names(results), tuple(ops.split("|")), _names(operands))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _candidates(view: View, match: Match, line: Statement) -> Iterator[Node]:
    """Nodes that share a value with what is matched so far."""
    for name in line.results:
        if name in match.values:
            node = view.producers.get(match[name].name)
            yield from () if node is None else (node,)
            return
    for name in line.operands:
        if name in match.values:
            yield from view.users[match[name].name]
            return
    raise GraphError(f"the statement that makes {line.results} shares no name with those before")


def _bind(match: Match, line: Statement, node: Node) -> Iterator[Match]:
    """Longer matches, by a node for a statement: two if its operands fit in either order."""
    shapes = (len(line.results), len(line.operands)) == (len(node.outputs), len(node.inputs))
    if node.op not in line.ops or not shapes:
        return
    orders = [node.inputs]
    if node.op in COMMUTATIVE and node.inputs[0] != node.inputs[1]:
        orders.append(node.inputs[::-1])
    for inputs in orders:
        values = dict(match.values)
        pairs = (*zip(line.results, node.outputs), *zip(line.operands, inputs))  # noqa: B905
        if all(name == ANY or values.setdefault(name, value) == value for name, value in pairs):
            yield Match(values, (*match.nodes, node))
