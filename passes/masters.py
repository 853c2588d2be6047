"""Training all weights as a rewrite, with float masters behind ternary weights.

BitNet b1.58 (Ma et al., 2024) keeps every projection in float and rounds it where it is used. The
gradient goes straight through the rounding, so the masters are params like any other.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..graph.build import GraphBuilder
from ..graph.ir import Graph, Role, Value
from ..graph.rewrite import with_inputs
from ..graph.types import DType

_WEIGHT = ".weight"
"""What the names of a model's weights end in; constants such as rotary frequencies do not."""


@dataclass(frozen=True)
class Masters:
    """Makes each weight named ``*.weight`` a param of f32, under its name.

    A ternary one is made anew from its master by the op ``ternarize``, right before the first node
    that reads it; ``layers.0.mlp.up_proj.weight`` gives ``layers.0.mlp.up_proj.weight.ternary``.
    """

    name: ClassVar[str] = "masters"

    def __call__(self, graph: Graph) -> Graph:
        """The graph with params for weights."""
        builder = GraphBuilder(graph.name)
        new: dict[Value, Value] = {}
        masters: dict[Value, Value] = {}
        for item in graph.inputs:
            value = item.value
            if item.role is not Role.WEIGHT or not value.name.endswith(_WEIGHT):
                builder.add_input(value.name, value.type, item.role)
                continue
            master = builder.add_input(value.name, value.type.with_dtype(DType.F32), Role.PARAM)
            (masters if value.type.dtype is DType.T2 else new)[value] = master
        for node in graph.nodes:
            for value in node.inputs:
                if value in masters:
                    with builder.scope(node.scope):
                        ternary = f"{value.name}.ternary"
                        new[value] = builder.op("ternarize", masters.pop(value), name=ternary)
            builder.append(with_inputs(node, new))
        return builder.finish(graph.outputs, graph.aliases)
