"""LoRA as a rewrite (Hu et al., 2021).

``y = ternary_matmul(x, w)`` gains ``alpha / rank (x A^T) B^T``, taken from x before quantization.
Autodiff needs to know nothing of it: A and B are params like any other.
"""

import math
import zlib
from dataclasses import dataclass, replace
from typing import ClassVar

from ..graph.build import GraphBuilder
from ..graph.ir import Graph, Node, Role, Value
from ..graph.types import DType, GraphError, TensorType

DRAW = "draw"
"""Name of the input (i32) that tells the dropout masks of steps apart."""


@dataclass(frozen=True)
class Lora:
    """Adds an adapter to each ternary product whose module is among the targets.

    The weight ``layers.0.mlp.up_proj.weight`` belongs to the module ``layers.0.mlp.up_proj``; its
    adapter is ``layers.0.mlp.up_proj.lora_A.weight`` [rank, in] and ``…lora_B.weight``
    [out, rank], the names that PEFT uses. A target is a module's path or the end of it, as in
    ``up_proj``. No targets means every ternary product.

    Attributes:
        rank: inner width of an adapter.
        alpha: an adapter is scaled by alpha / rank.
        targets: which modules get one.
        rank_pattern, alpha_pattern: other ranks and alphas for some modules, as in ``v_proj=8``;
            the first that fits counts.
        rslora: scale by alpha / sqrt(rank) instead (Kalajdzievski, 2023).
        dropout: share of an adapter's inputs that are dropped. If it is not 0 the graph takes the
            input `DRAW`, which tells the masks of one step from those of the next.
        seed: of the masks.
    """

    name: ClassVar[str] = "lora"
    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ()
    rank_pattern: tuple[str, ...] = ()
    alpha_pattern: tuple[str, ...] = ()
    rslora: bool = False
    dropout: float = 0.0
    seed: int = 0

    def __call__(self, graph: Graph) -> Graph:
        """The graph with adapters.

        Raises:
            GraphError: a rank is not positive, or a target or pattern matches nothing.
        """
        adapted = {v.name: node for node in graph.nodes if (v := self._weight(node)) is not None}
        patterns = (*self.rank_pattern, *self.alpha_pattern)
        for target in (*self.targets, *(pattern.partition("=")[0] for pattern in patterns)):
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
        if self.dropout:
            params[DRAW] = builder.add_input(DRAW, TensorType(DType.I32, ()), Role.INPUT)
        for node in graph.nodes:
            weight = self._weight(node)
            if weight is None:
                builder.append(node)
            else:
                x = unquantized.get(node.inputs[0], node.inputs[0])
                self._adapt(builder, node, x, module_of(weight.name), params)
        return builder.finish(graph.outputs, graph.aliases)

    def rank_of(self, module: str) -> int:
        """Inner width of a module's adapter.

        Raises:
            GraphError: it is not a positive whole number.
        """
        rank = _setting(module, self.rank_pattern, self.rank)
        if not rank >= 1:
            raise GraphError(f"LoRA needs a rank of at least 1, not {rank:g}")
        if not float(rank).is_integer():
            raise GraphError(f"LoRA needs a whole rank, not {rank:g}")
        return int(rank)

    def scaling_of(self, module: str) -> float:
        """Factor on a module's low-rank product."""
        rank = self.rank_of(module)
        alpha = _setting(module, self.alpha_pattern, self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

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
        rank = self.rank_of(module)
        for half, shape in (("A", (rank, width)), ("B", (out, rank))):
            name = f"{module}.lora_{half}.weight"
            builder.add_input(name, TensorType(DType.F32, shape), Role.PARAM)

    def _adapt(
        self, builder: GraphBuilder, node: Node, x: Value, module: str, params: dict[str, Value]
    ) -> None:
        (y,) = node.outputs
        base = replace(y, name=f"{y.name}.base")
        builder.append(replace(node, outputs=(base,)))
        with builder.scope(node.scope), builder.prefix(f"{y.name}.lora"):
            if self.dropout:
                stream = zlib.crc32(module.encode())
                x = builder.op(
                    "dropout", x, params[DRAW], p=self.dropout, seed=self.seed, stream=stream
                )
            low = builder.op("matmul", x, params[f"{module}.lora_A.weight"], transpose_b=True)
            low = builder.op("scale", low, factor=self.scaling_of(module))
            high = builder.op("matmul", low, params[f"{module}.lora_B.weight"], transpose_b=True)
            builder.op("add", base, high, name=y.name)


def _setting(module: str, pattern: tuple[str, ...], default: float) -> float:
    """What the first fitting entry of a pattern says of a module."""
    for entry in pattern:
        target, _, value = entry.partition("=")
        if _is_target(module, target):
            try:
                return float(value)
            except ValueError:
                raise GraphError(
                    f"'{entry}' is not a module and a number, as in v_proj=8"
                ) from None
    return default


def _is_target(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def module_of(weight: str) -> str:
    """``layers.0.mlp.up_proj.weight`` -> ``layers.0.mlp.up_proj``."""
    return weight.removesuffix(".weight")
