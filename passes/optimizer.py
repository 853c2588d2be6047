"""The optimizer as graph nodes: clip by the global norm, then AdamW, in place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..graph.build import GraphBuilder
from ..graph.ir import Alias, Graph, Role, Value
from ..graph.tensors import Array
from ..graph.types import DType, GraphError, TensorType

SOUND = "sound"
"""Name of the state (i32) that is 1 while every step so far was finite."""


@dataclass(frozen=True)
class AdamW:
    """Turns the outputs ``NAME.grad`` into updates of the params.

    Adds the inputs ``lr`` (f32) and ``step`` (i32, from 1), the states ``NAME.m`` and ``NAME.v``,
    and the output ``grad_norm``, the norm of all gradients before clipping. The new params and
    states take the places of the old. A `max_norm` of 0 does not clip.

    The state `SOUND` is 1 at first. Once the loss or the norm of a step is not finite it is 0, and
    neither that step nor a later one changes anything; their ``grad_norm`` is NaN.
    """

    name: ClassVar[str] = "adamw"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_norm: float = 1.0
    loss: str = "loss"

    def __call__(self, graph: Graph) -> Graph:
        """The graph of a whole training step.

        Raises:
            GraphError: a param has no gradient among the outputs, or there is no such loss.
        """
        params = graph.inputs_of(Role.PARAM)
        outputs = {value.name: value for value in graph.outputs}
        for param in params:
            if f"{param.name}.grad" not in outputs:
                raise GraphError(f"the param {param} has no gradient; run the pass grad first")
        if self.loss not in outputs:
            raise GraphError(f"graph @{graph.name} has no output named '{self.loss}'")
        builder = GraphBuilder.extending(graph)
        gradients = [outputs.pop(f"{param.name}.grad") for param in params]
        with builder.scope("optimizer"):
            norm, clip, sound = self._clip(builder, outputs[self.loss], gradients)
            schedule = (
                clip,
                builder.add_input("lr", TensorType(DType.F32, ()), Role.INPUT),
                builder.add_input("step", TensorType(DType.I32, ()), Role.INPUT),
            )
            aliases = [Alias(sound.name, SOUND)]
            results = [sound]
            for param, gradient in zip(params, gradients, strict=True):
                new, alias = self._update(builder, param, gradient, schedule)
                results += new
                aliases += alias
        returned = (*outputs.values(), norm, *results)
        return builder.finish(returned, (*graph.aliases, *aliases))

    def _clip(
        self, builder: GraphBuilder, loss: Value, gradients: list[Value]
    ) -> tuple[Value, Value, Value]:
        """The norm of the gradients, the factor that clips them, and whether all is still sound."""
        raw = builder.op("global_norm", *gradients, name="grad_norm.raw")
        sound = builder.add_input(SOUND, TensorType(DType.I32, ()), Role.STATE)
        names = ("grad_norm", f"{SOUND}.new")
        norm, sound = builder.ops("guard", raw, loss, sound, names=names)
        clip = builder.op("clip_factor", norm, name="clip", max_norm=self.max_norm)
        return norm, clip, sound

    def _update(
        self, builder: GraphBuilder, param: Value, gradient: Value, schedule: tuple[Value, ...]
    ) -> tuple[tuple[Value, ...], list[Alias]]:
        old = (
            param,
            builder.add_input(f"{param.name}.m", param.type, Role.STATE),
            builder.add_input(f"{param.name}.v", param.type, Role.STATE),
        )
        new = builder.ops(
            "adamw",
            old[0],
            gradient,
            *old[1:],
            *schedule,
            names=tuple(f"{value.name}.new" for value in old),
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )
        return new, [Alias(n.name, o.name) for n, o in zip(new, old, strict=True)]


def initial_state(params: Mapping[str, Array]) -> dict[str, Array]:
    """What the states of `AdamW` hold before the first step, by name."""
    state: dict[str, Array] = {SOUND: np.ones((), np.int32)}
    for name, value in params.items():
        state |= {f"{name}.m": np.zeros_like(value), f"{name}.v": np.zeros_like(value)}
    return state
