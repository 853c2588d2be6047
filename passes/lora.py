"""LoRA as a rewrite (Hu et al., 2021).

``y = ternary_matmul(x, w)`` gains ``alpha / rank (x A^T) B^T``, taken from x before quantization.
Autodiff needs to know nothing of it: A and B are params like any other.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from ..graph.build import GraphBuilder
from ..graph.ir import Graph, Node, Role, Value
from ..graph.types import DType, GraphError, TensorType


@dataclass(frozen=True)
class Lora:
    """Adds an adapter to each ternary product whose module is among the targets.

    The weight ``layers.0.mlp.up_proj.weight`` belongs to the module ``layers.0.mlp.up_proj``; its
    adapter is ``layers.0.mlp.up_proj.lora_A.weight`` [rank, in] and ``…lora_B.weight``
    [out, rank], the names that PEFT uses. A target is a module's path or the end of it, as in
    ``up_proj``. No targets means every ternary product.
    """

    name: ClassVar[str] = "lora"
    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ()

    def __call__(self, graph: Graph) -> Graph:
        """The graph with adapters.

        Raises:
            GraphError: the rank is not positive, or a target matches nothing.
        """
        if self.rank < 1:
            raise GraphError(f"LoRA needs a rank of at least 1, not {self.rank}")
        adapted = {v.name: node for node in graph.nodes if (v := self._weight(node)) is not None}
        for target in self.targets:
            if not any(_is_target(module_of(name), target) for name in adapted):
                raise GraphError(f"no ternary product belongs to a module named '{target}'")
        builder = GraphBuilder(graph.name)
        for item in graph.inputs:
            builder.add_input(item.value.name, item.value.type, item.role)
        for name, node in adapted.items():
            self._declare(builder, module_of(name), node)
        unquantized = {
            node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op == "quantize"
        }
        params = {i.value.name: i.value for i in builder.inputs}
        for node in graph.nodes:
            weight = self._weight(node)
            if weight is None:
                builder.append(node)
            else:
                x = unquantized.get(node.inputs[0], node.inputs[0])
                self._adapt(builder, node, x, module_of(weight.name), params)
        return builder.finish(graph.outputs, graph.aliases)

    def _weight(self, node: Node) -> Value | None:
        """The weight of a product that gets an adapter."""
        if node.op != "ternary_matmul":
            return None
        weight = node.inputs[1]
        module = module_of(weight.name)
        chosen = not self.targets or any(_is_target(module, target) for target in self.targets)
        return weight if chosen else None

    def _declare(self, builder: GraphBuilder, module: str, node: Node) -> None:
        out, width = node.inputs[1].type.shape
        for half, shape in (("A", (self.rank, width)), ("B", (out, self.rank))):
            name = f"{module}.lora_{half}.weight"
            builder.add_input(name, TensorType(DType.F32, shape), Role.PARAM)

    def _adapt(
        self, builder: GraphBuilder, node: Node, x: Value, module: str, params: dict[str, Value]
    ) -> None:
        (y,) = node.outputs
        base = replace(y, name=f"{y.name}.base")
        builder.append(replace(node, outputs=(base,)))
        with builder.scope(node.scope), builder.prefix(f"{y.name}.lora"):
            low = builder.op("matmul", x, params[f"{module}.lora_A.weight"], transpose_b=True)
            low = builder.op("scale", low, factor=self.alpha / self.rank)
            high = builder.op("matmul", low, params[f"{module}.lora_B.weight"], transpose_b=True)
            builder.op("add", base, high, name=y.name)


def _is_target(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def module_of(weight: str) -> str:
    """``layers.0.mlp.up_proj.weight`` -> ``layers.0.mlp.up_proj``."""
    return weight.removesuffix(".weight")
