"""The smooth stand-in of a graph, on which gradients can be checked with numbers."""

from dataclasses import dataclass
from typing import ClassVar

from ..graph.build import GraphBuilder
from ..graph.ir import Graph, Value
from ..graph.ops import op_def
from ..graph.rewrite import map_values, substitute, with_inputs
from ..graph.types import DType, GraphError


@dataclass(frozen=True)
class Surrogate:
    """Replaces every step function (the int8 quantizer) by its differentiable surrogate."""

    name: ClassVar[str] = "surrogate"

    def __call__(self, graph: Graph) -> Graph:
        """The smooth graph."""
        builder = GraphBuilder(graph.name)
        for item in graph.inputs:
            builder.add_input(item.value.name, item.value.type, item.role)
        new: dict[Value, Value] = {}
        for original in graph.nodes:
            node = with_inputs(original, new)
            surrogate = op_def(node.op).surrogate
            if surrogate is None:
                builder.append(node)
                continue
            with builder.scope(node.scope), builder.prefix(node.outputs[0].name):
                new.update(zip(node.outputs, surrogate(builder, node), strict=True))
        return builder.finish(substitute(graph.outputs, new), graph.aliases)


@dataclass(frozen=True)
class Promote:
    """Computes everything in float64, for numerical gradient checks of a smooth graph."""

    name: ClassVar[str] = "promote"

    def __call__(self, graph: Graph) -> Graph:
        """The graph with every f32 and f16 tensor turned into f64.

        Raises:
            GraphError: the graph still quantizes.
        """
        values = [i.value for i in graph.inputs] + [v for n in graph.nodes for v in n.outputs]
        if any(value.type.dtype is DType.Q8 for value in values):
            raise GraphError("a quantized graph has no float64 form; run the pass surrogate first")
        return map_values(
            graph,
            {
                value: Value(value.name, value.type.with_dtype(DType.F64))
                for value in values
                if value.type.dtype in (DType.F32, DType.F16)
            },
        )
