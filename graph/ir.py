"""The intermediate representation: frozen data without back-pointers.

A graph is a list of nodes in a valid execution order. Uses, liveness and the networkx view are
functions of a graph (`analysis`), never fields of it, so that "did this pass change anything" is
``==``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from .types import TensorType

Attr: TypeAlias = int | float | str | bool | tuple[int, ...]
"""What an attribute of a node may be."""


class Role(StrEnum):
    """What an input of a graph is.

    INPUT changes at every step; WEIGHT is frozen; PARAM is trained; STATE lives from step to step
    (optimizer moments, KV cache).
    """

    INPUT = "input"
    WEIGHT = "weight"
    PARAM = "param"
    STATE = "state"


@dataclass(frozen=True)
class Value:
    """A tensor in a graph: a name unique in it, and a type."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Input:
    """A value that comes from outside, and what it is."""

    value: Value
    role: Role


@dataclass(frozen=True)
class Node:
    """One application of an op.

    Attributes:
        op: name of the op's record in `ops`.
        inputs: operands.
        outputs: results, in the order the op defines.
        attrs: attributes sorted by name.
        scope: where the node comes from, as in ``layers.3/self_attn``.
    """

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attrs: tuple[tuple[str, Attr], ...] = ()
    scope: str = ""

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes as a dictionary."""
        return dict(self.attrs)


@dataclass(frozen=True)
class Alias:
    """An output that takes the storage of an input: the input's old contents are gone after."""

    output: str
    donated: str


@dataclass(frozen=True)
class Graph:
    """A static tensor program.

    Attributes:
        name: for people.
        inputs: values from outside, with their roles.
        nodes: in a valid execution order.
        outputs: values that the caller reads.
        aliases: outputs written over inputs.
    """

    name: str
    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    aliases: tuple[Alias, ...] = ()

    def __str__(self) -> str:
        from .text import format_graph  # the printer knows the graph, not the other way round

        return format_graph(self)

    def inputs_of(self, *roles: Role) -> tuple[Value, ...]:
        """Inputs that have one of the roles, in order."""
        return tuple(i.value for i in self.inputs if i.role in roles)

    def output(self, name: str) -> Value:
        """The output of that name.

        Raises:
            KeyError: there is none.
        """
        for value in self.outputs:
            if value.name == name:
                return value
        raise KeyError(name)


def sorted_attrs(attrs: Mapping[str, Attr]) -> tuple[tuple[str, Attr], ...]:
    """Attributes in the order a node keeps them."""
    return tuple(sorted(attrs.items()))
