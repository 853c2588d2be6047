"""Building graphs node by node, with types inferred and names kept unique."""

from collections.abc import Iterator
from contextlib import contextmanager

from .ir import Alias, Attr, Graph, Input, Node, Role, Value, sorted_attrs
from .ops import infer_types
from .types import GraphError, TensorType


class GraphBuilder:
    """Collects inputs and nodes in order; `finish` gives the graph."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: list[Input] = []
        self.nodes: list[Node] = []
        self._values: dict[str, Value] = {}
        self._roles: dict[str, Role] = {}
        self._counters: dict[str, int] = {}
        self._scopes: list[str] = []
        self._prefix = ""

    @classmethod
    def extending(cls, graph: Graph) -> "GraphBuilder":
        """A builder that begins with everything a graph has, except its outputs."""
        builder = cls(graph.name)
        for item in graph.inputs:
            builder.add_input(item.value.name, item.value.type, item.role)
        for node in graph.nodes:
            builder.append(node)
        return builder

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes made inside carry this scope, nested in those around it."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    @contextmanager
    def prefix(self, text: str) -> Iterator[None]:
        """Values made inside without a name of their own are named ``text.1``, ``text.2``, ..."""
        outer, self._prefix = self._prefix, text
        try:
            yield
        finally:
            self._prefix = outer

    def add_input(self, name: str, type: TensorType, role: Role) -> Value:
        """Declare a value from outside."""
        value = self._define(name, type)
        self.inputs.append(Input(value, role))
        self._roles[name] = role
        return value

    def input_once(self, name: str, type: TensorType, role: Role) -> Value:
        """Declare a value from outside, unless it is already there.

        Raises:
            GraphError: the name belongs to something else.
        """
        value = Value(name, type)
        if self._roles.get(name) is not role or self._values[name] != value:
            return self.add_input(name, type, role)
        return value

    def append(self, node: Node) -> None:
        """Take over a node as it is."""
        for value in node.outputs:
            self._define(value.name, value.type)
        self.nodes.append(node)

    def op(self, op: str, *inputs: Value, name: str = "", **attrs: Attr) -> Value:
        """Apply an op that has one result.

        Raises:
            GraphError: unknown op, or operands and attributes that do not fit it.
        """
        (value,) = self.ops(op, *inputs, names=(name,), **attrs)
        return value

    def ops(
        self, op: str, *inputs: Value, names: tuple[str, ...] = (), **attrs: Attr
    ) -> tuple[Value, ...]:
        """Apply an op that has any number of results."""
        types = infer_types(op, tuple(v.type for v in inputs), attrs)
        names = names or ("",) * len(types)
        if len(names) != len(types):
            raise GraphError(f"{op} has {len(types)} results, {len(names)} names were given")
        outputs = tuple(
            self._define(name or self._fresh(op), type)
            for name, type in zip(names, types, strict=True)
        )
        scope = "/".join(self._scopes)
        self.nodes.append(Node(op, inputs, outputs, sorted_attrs(attrs), scope))
        return outputs

    def finish(self, outputs: tuple[Value, ...], aliases: tuple[Alias, ...] = ()) -> Graph:
        """The graph that returns `outputs`."""
        return Graph(self.name, tuple(self.inputs), tuple(self.nodes), outputs, aliases)

    def _define(self, name: str, type: TensorType) -> Value:
        if name in self._values:
            raise GraphError(f"%{name} is defined twice")
        value = Value(name, type)
        self._values[name] = value
        return value

    def _fresh(self, op: str) -> str:
        stem = self._prefix or op
        while True:
            self._counters[stem] = self._counters.get(stem, 0) + 1
            name = f"{stem}.{self._counters[stem]}"
            if name not in self._values:
                return name
