"""What a rule of the lowering writes: calls of kernels on values, before memory is planned."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ....graph.ir import Node, Value
from ....graph.ops.fused import FUSED
from ....graph.tensors import HostValue
from ....graph.types import GraphError, TensorType
from ....passes.fuse.fuse import Fuse
from ....passes.fuse.view import View
from ..kernels import kernel
from ..limits import Limits
from ..schedule import Access


@dataclass(frozen=True)
class Part:
    """Some of a value's bytes, as a tensor of their own: the rows of a table, say."""

    value: Value
    offset: int
    type: TensorType


@dataclass(frozen=True)
class Operand:
    """A part of a value and what a call does with it."""

    part: Part
    access: Access


@dataclass(frozen=True)
class Call:
    """One dispatch whose operands have no memory yet. Fields as in `Dispatch`."""

    kernel: str
    constants: tuple[tuple[str, int | float], ...]
    operands: tuple[Operand, ...]
    groups: tuple[int, int, int]
    label: str


_LARGE = 1 << 26


def is_large(sizes: tuple[int, int, int]) -> bool:
    """Whether a product has so many multiplications that it matters which kernel computes it."""
    return math.prod(sizes) >= _LARGE


@dataclass(frozen=True)
class Choice:
    """A product that several kernels can compute on a device.

    Attributes:
        op: of the product, or "loss_and_gradient" for both products of a chunk of labelled rows.
        sizes: rows, inner length and columns, of the loss no more than are worth timing.
        ways: names of the kernels; the one that should be fastest comes first.
    """

    op: str
    sizes: tuple[int, int, int]
    ways: tuple[str, ...]

    @property
    def is_large(self) -> bool:
        """Whether it is worth timing."""
        return is_large(self.sizes)

    def name(self, way: str) -> str:
        """A way with the sizes, for `Limits.avoided`."""
        return f"{way} {'x'.join(map(str, self.sizes))}"


class Lowering:
    """Collects the calls of a graph; the rules of `RULES` write to it.

    Attributes:
        limits: of the device.
        calls: so far, in a valid order.
        row_powers: what `row_power` gave so far, by name of the value, for later nodes.
        panels: the same of factors in panels, by the names of what is in them.
        views: values that are another value's bytes under another type.
        donors: values that are written over another value, by in-place aliases.
        inputs: names of the values that come from outside.
        choices: what was chosen among several ways.
    """

    def __init__(
        self,
        limits: Limits,
        donors: Mapping[str, Value],
        inputs: frozenset[str],
        rules: Mapping[str, "Rule"],
    ) -> None:
        self.limits = limits
        self.calls: list[Call] = []
        self.row_powers: dict[str, Value] = {}
        self.panels: dict[str, Value] = {}
        self.views: dict[str, Value] = {}
        self.donors = donors
        self.inputs = inputs
        self.choices: dict[Choice, None] = {}
        self.label = ""
        self._rules = rules
        self._scratch = 0

    def lower(self, node: Node) -> None:
        """Add the calls of a node, by the rule for its op or, if it is fused, for its pattern.

        Raises:
            GraphError: an op has no kernel for this device.
        """
        name = rule_name(node)
        if name in self._rules:
            self._rules[name](self, node)
        elif node.op == FUSED:
            self.lower_apart(node)
        else:
            raise GraphError(f"there is no kernel for the op {node.op}")

    def lower_apart(self, node: Node, patterns: tuple[str, ...] = ()) -> None:
        """Add the calls of the nodes that a fused one stands for: where no kernel does it all.

        Args:
            node: of the op `fused`.
            patterns: names of those by which its nodes may become fewer again.
        """
        body = View.inside(node).graph
        for part in (Fuse(only=patterns)(body) if patterns else body).nodes:
            self.lower(part)

    def call(
        self,
        name: str,
        groups: tuple[int, int, int],
        constants: Mapping[str, int | float],
        **operands: Value | Part,
    ) -> None:
        """Add a call.

        Args:
            name: of the kernel.
            groups: workgroups in x, y and z.
            constants: values of all its specialization constants.
            **operands: values or parts for all its bindings, by name.

        Raises:
            GraphError: constants, operands or their sizes do not fit the kernel.
        """
        self.calls.append(self._make(name, groups, constants, operands, self.label))

    def replace(
        self,
        position: int,
        name: str,
        groups: tuple[int, int, int],
        constants: Mapping[str, int | float],
        **operands: Value | Part,
    ) -> None:
        """Put another call in the place of one; the arguments are those of `call`."""
        label = self.calls[position].label
        self.calls[position] = self._make(name, groups, constants, operands, label)

    def drop_unread(self, outputs: Iterable[Value]) -> None:
        """Drop calls whose results nobody reads; rules may have found a way around them."""
        needed = {self._home(value) for value in outputs} | set(self.inputs)
        kept: list[Call] = []
        for call in reversed(self.calls):
            homes = [(self._home(o.part.value), o.access) for o in call.operands]
            if any(home in needed for home, access in homes if access is not Access.READ):
                needed |= {home for home, access in homes if access is not Access.WRITE}
                kept.append(call)
        self.calls = kept[::-1]

    def _home(self, value: Value) -> str:
        """Name of the value whose bytes a value is."""
        while value.name in self.views or value.name in self.donors:
            value = self.views.get(value.name) or self.donors[value.name]
        return value.name

    def _make(
        self,
        name: str,
        groups: tuple[int, int, int],
        constants: Mapping[str, int | float],
        operands: Mapping[str, Value | Part],
        label: str,
    ) -> Call:
        record = kernel(name)
        if set(constants) != set(record.constants):
            raise GraphError(f"{name} has the constants {record.constants}, got {set(constants)}")
        if set(operands) != {p.name for p in record.parameters}:
            raise GraphError(f"{name} has other operands than {', '.join(operands)}")
        bound: list[Operand] = []
        for parameter in record.parameters:
            part = whole(operands[parameter.name])
            wanted = parameter.type(constants)
            if part.type.nbytes != wanted.nbytes:
                raise GraphError(f"{name}: {parameter.name} is {wanted}, got {part.type}")
            bound.append(Operand(part, parameter.access))
        if any(not 0 < count <= self.limits.max_groups for count in groups):
            raise GraphError(f"{name}: {groups} workgroups are more than the device can start")
        ordered = tuple(sorted(constants.items()))
        return Call(name, ordered, tuple(bound), groups, label)

    def choose(self, op: str, sizes: tuple[int, int, int], ways: Sequence[str]) -> str | None:
        """The way to compute a product: the first that is not avoided; None if there is none."""
        if len(ways) < 2:
            return ways[0] if ways else None
        choice = Choice(op, sizes, tuple(ways))
        self.choices[choice] = None
        left = (way for way in ways if choice.name(way) not in self.limits.avoided)
        return next(left, ways[0])

    def scratch(self, type: TensorType) -> Value:
        """A value that the graph does not have, for calls of the present node."""
        self._scratch += 1
        return Value(f"scratch.{self._scratch}", type)

    def view(self, value: Value, of: Value) -> None:
        """Let a value be the bytes of another."""
        self.views[value.name] = of


def rule_name(node: Node) -> str:
    """What a node's rule is found by: its op, or ``fused:PATTERN``."""
    return fused_rule(node.attributes["pattern"]) if node.op == FUSED else node.op


def fused_rule(pattern: str) -> str:
    """What the rule for the fused nodes of a pattern is found by."""
    return f"{FUSED}:{pattern}"


def whole(operand: Value | Part) -> Part:
    """A value as a part that is all of it."""
    return operand if isinstance(operand, Part) else Part(operand, 0, operand.type)


def rows_of(value: Value, begin: int, count: int) -> Part:
    """Rows of a plain matrix."""
    row = value.type.nbytes // value.type.shape[0]
    return Part(value, begin * row, value.type.with_shape((count, *value.type.shape[1:])))


def row_ranges(limits: Limits, *values: Value) -> list[tuple[int, int]]:
    """Begins and counts of ranges of rows that the device can bind of each of some matrices.

    All have the same number of rows. It is one range if they fit as they are.

    Raises:
        GraphError: not even the fewest rows that are aligned fit.
    """
    rows = values[0].type.shape[0]
    if all(value.type.nbytes <= limits.max_range for value in values):
        return [(0, rows)]
    sizes = [value.type.nbytes // rows for value in values]
    unit = math.lcm(*(limits.alignment // math.gcd(limits.alignment, size) for size in sizes))
    count = limits.max_range // (unit * max(sizes)) * unit
    if not count:
        widest = max(values, key=lambda value: value.type.nbytes)
        raise GraphError(
            f"%{widest.name}: {widest.type} cannot be split into ranges of {limits.max_range:,} "
            "bytes, the most that the device binds at once"
        )
    return [(begin, min(count, rows - begin)) for begin in range(0, rows, count)]


def runs_of(limits: Limits, *values: Value) -> Iterator[tuple[int, tuple[Part, ...]]]:
    """Values of equally many 32-bit elements, cut alike into runs that the device can bind.

    Yields:
        The number of elements of a run, and that run of each value as a vector.
    """
    size = values[0].type.size
    word = 4
    most = limits.max_range // limits.alignment * (limits.alignment // word)
    for begin in range(0, size, most):
        count = min(most, size - begin)
        yield count, tuple(Part(v, word * begin, v.type.with_shape((count,))) for v in values)


def groups_for(count: int, size: int, limits: Limits) -> tuple[int, int, int]:
    """Workgroups of `size` for `count` items, folded into y where x is not enough.

    A kernel sees the workgroup's number as ``gl_WorkGroupID.y * gl_NumWorkGroups.x +
    gl_WorkGroupID.x`` and skips those past the end.
    """
    groups = max(-(-count // size), 1)
    if groups <= limits.max_groups:
        return groups, 1, 1
    y = -(-groups // limits.max_groups)
    return -(-groups // y), y, 1


def reducing_workgroup(items: int, limits: Limits) -> int:
    """Invocations of a workgroup that reduces so many items to one.

    At most eight subgroups: each invocation adds up what the subgroups have found.
    """
    needed = 1 << max(items - 1, 31).bit_length()
    return min(needed, 8 * limits.subgroup, 256)


Rule: TypeAlias = Callable[[Lowering, Node], None]
Meaning: TypeAlias = Callable[[Mapping[str, int | float], Mapping[str, HostValue]], None]
"""What a kernel does, in NumPy: (constants, operands by name), writing into the operands."""
