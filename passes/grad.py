"""Reverse-mode differentiation: extends a graph by the gradients of its params."""

from dataclasses import dataclass, replace
from typing import ClassVar

from ..graph.analysis import leads_to, needed_for
from ..graph.build import GraphBuilder
from ..graph.ir import Graph, Node, Role, Value
from ..graph.ops import op_def
from ..graph.rewrite import rename
from ..graph.types import GraphError


@dataclass(frozen=True)
class Grad:
    """Adds the outputs ``NAME.grad`` for every param, the gradient of a scalar output.

    Only what leads from a param to the loss is differentiated, so frozen weights get none. The
    nodes of the backward pass carry their forward node's scope with ``/grad`` behind it.
    """

    name: ClassVar[str] = "grad"
    loss: str = "loss"

    def __call__(self, graph: Graph) -> Graph:
        """The joint graph.

        Raises:
            GraphError: no such scalar output, no params, a param that the loss does not depend on,
                or an op on the way that has no gradient.
        """
        loss = self._loss(graph)
        params = graph.inputs_of(Role.PARAM)
        if not params:
            raise GraphError(f"graph @{graph.name} has no params to differentiate for")
        active = leads_to(graph, {p.name for p in params}) & needed_for(graph, {loss.name})
        for param in params:
            if param.name not in active:
                raise GraphError(f"%{loss.name} does not depend on the param {param}")
        builder = GraphBuilder.extending(graph)
        cotangents = _Cotangents(builder)
        with builder.scope("loss/grad"):
            cotangents.give(loss, builder.op("full_like", loss, value=1.0))
        for node in reversed(graph.nodes):
            _backward(builder, node, cotangents, active)
        gradients = self._gradients(builder, cotangents, params)
        joint = builder.finish((*graph.outputs, *gradients), graph.aliases)
        joint = _without_unused(joint, len(graph.nodes))
        names = {g.name: f"{p.name}.grad" for p, g in zip(params, gradients, strict=True)}
        return rename(joint, names)

    def _gradients(
        self, builder: GraphBuilder, cotangents: "_Cotangents", params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """One value for each param, its own even where two params have the same gradient."""
        gradients: list[Value] = []
        for param in params:
            gradient = cotangents.take(param)
            assert gradient is not None, "an active param has a cotangent"
            if gradient in gradients:
                gradient = builder.op("scale", gradient, factor=1.0)
            gradients.append(gradient)
        return tuple(gradients)

    def _loss(self, graph: Graph) -> Value:
        for value in graph.outputs:
            if value.name == self.loss:
                if value.type.shape != ():
                    raise GraphError(f"{value}: {value.type} is not a scalar to differentiate")
                return value
        raise GraphError(f"graph @{graph.name} has no output named '{self.loss}'")


def _without_unused(joint: Graph, forward: int) -> Graph:
    """The graph without what rules gave for operands that lead to no param, frozen weights say."""
    needed = needed_for(joint, {value.name for value in joint.outputs})
    backward = (
        node
        for node in joint.nodes[forward:]
        if any(value.name in needed for value in node.outputs)
    )
    return replace(joint, nodes=(*joint.nodes[:forward], *backward))


class _Cotangents:
    """Contributions to the cotangent of each value, summed when they are asked for."""

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder
        self._parts: dict[str, list[Value]] = {}

    def give(self, value: Value, cotangent: Value) -> None:
        self._parts.setdefault(value.name, []).append(cotangent)

    def take(self, value: Value) -> Value | None:
        parts = self._parts.pop(value.name, [])
        if not parts:
            return None
        total, *rest = parts
        with self._builder.prefix(f"d.{value.name}"):
            for part in rest:
                total = self._builder.op("add", total, part)
        return total


def _backward(builder: GraphBuilder, node: Node, cotangents: _Cotangents, active: set[str]) -> None:
    """Emit the cotangents of a node's operands from those of its results."""
    scope = f"{node.scope}/grad".lstrip("/")
    with builder.scope(scope), builder.prefix(f"d.{node.outputs[0].name}"):
        given = tuple(cotangents.take(value) for value in node.outputs)
        if all(cotangent is None for cotangent in given):
            return
        op = op_def(node.op)
        if op.vjp is None:
            raise GraphError(f"{node.op} has no gradient ({op.no_vjp})")
        results = op.vjp(builder, node, *given)
    for operand, value, cotangent in zip(op.operands, node.inputs, results, strict=True):
        if value.name not in active:
            continue
        if cotangent is None:
            raise GraphError(f"{node.op} has no gradient for its operand {operand} ({value})")
        cotangents.give(value, cotangent)
