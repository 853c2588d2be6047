"""The optimizers as graph nodes: clip by the global norm, then update, in place."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from ..graph.build import GraphBuilder
from ..graph.ir import Alias, Graph, Role, Value
from ..graph.tensors import Array
from ..graph.types import DType, GraphError, TensorType

SOUND = "sound"
"""Name of the state (i32) that is 1 while every step so far was finite."""

LAYER_NORM = "grad_norm.layers."
"""What the names of the outputs with the norms of layers begin with; the layer's number follows."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")

_Update: TypeAlias = Callable[
    [GraphBuilder, Value, Value, Value, Value], tuple[tuple[Value, ...], tuple[Value, ...]]
]
"""Called with the builder, a param, its gradient, the clipping factor and the learning rate; gives
the param and its states, and what takes their places."""


@dataclass(frozen=True)
class AdamW:
    """Turns the outputs ``NAME.grad`` into updates of the params (Loshchilov and Hutter, 2019).

    Adds the inputs ``lr`` (f32) and ``step`` (i32, from 1), the states ``NAME.m`` and ``NAME.v``,
    and the output ``grad_norm``, the norm of all gradients before clipping. The new params and
    states take the places of the old. A `max_norm` of 0 does not clip. Params whose names end in
    one of `no_decay` are not decayed. With `layer_norms`, each layer has an output
    ``grad_norm.layers.N`` too, the norm of the gradients of its params before clipping.

    The state `SOUND` is 1 at first. Once the loss or the norm of a step is not finite it is 0, and
    neither that step nor a later one changes anything; their ``grad_norm`` is NaN.
    """

    name: ClassVar[str] = "adamw"
    moments: ClassVar[tuple[str, ...]] = ("m", "v")
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()
    max_norm: float = 1.0
    layer_norms: bool = False
    loss: str = "loss"

    def __call__(self, graph: Graph) -> Graph:
        """The graph of a whole training step.

        Raises:
            GraphError: a param has no gradient among the outputs, or there is no such loss.
        """
        return _with_updates(graph, self, self._update)

    def _update(
        self, builder: GraphBuilder, param: Value, gradient: Value, clip: Value, lr: Value
    ) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        step = builder.input_once("step", TensorType(DType.I32, ()), Role.INPUT)
        m, v = (_state_of(builder, param, suffix) for suffix in self.moments)
        new = builder.ops(
            "adamw",
            *(param, gradient, m, v, clip, lr, step),
            names=_new_names(param, m, v),
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            weight_decay=_decay_of(param, self.weight_decay, self.no_decay),
        )
        return (param, m, v), new


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum, as PyTorch has it; otherwise like `AdamW`.

    Its only state is ``NAME.m``, the sum of past gradients.
    """

    name: ClassVar[str] = "sgd"
    moments: ClassVar[tuple[str, ...]] = ("m",)
    momentum: float = 0.9
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()
    max_norm: float = 1.0
    layer_norms: bool = False
    loss: str = "loss"

    def __call__(self, graph: Graph) -> Graph:
        """The graph of a whole training step.

        Raises:
            GraphError: as in `AdamW`.
        """
        return _with_updates(graph, self, self._update)

    def _update(
        self, builder: GraphBuilder, param: Value, gradient: Value, clip: Value, lr: Value
    ) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        m = _state_of(builder, param, "m")
        new = builder.ops(
            "sgd",
            *(param, gradient, m, clip, lr),
            names=_new_names(param, m),
            momentum=self.momentum,
            weight_decay=_decay_of(param, self.weight_decay, self.no_decay),
        )
        return (param, m), new


Optimizer: TypeAlias = AdamW | Sgd


def initial_state(optimizer: Optimizer, params: Mapping[str, Array]) -> dict[str, Array]:
    """What the states of an optimizer hold before the first step, by name."""
    state: dict[str, Array] = {SOUND: np.ones((), np.int32)}
    for name, value in params.items():
        state |= {
            f"{name}.{suffix}": np.zeros(value.shape, value.dtype) for suffix in optimizer.moments
        }
    return state


def _with_updates(graph: Graph, options: Optimizer, update: _Update) -> Graph:
    """The graph with every param updated from its gradient."""
    outputs = {value.name: value for value in graph.outputs}
    loss = options.loss
    if loss not in outputs:
        raise GraphError(f"graph @{graph.name} has no output named '{loss}'")
    params = graph.inputs_of(Role.PARAM)
    gradients = [_gradient(outputs, param) for param in params]
    builder = GraphBuilder.extending(graph)
    with builder.scope("optimizer"):
        norm, clip, sound = _clipping(builder, outputs[loss], gradients, options.max_norm)
        layers = _layer_norms(builder, params, gradients) if options.layer_norms else ()
        lr = builder.add_input("lr", TensorType(DType.F32, ()), Role.INPUT)
        places = [(sound, SOUND)]
        for param, gradient in zip(params, gradients, strict=True):
            old, new = update(builder, param, gradient, clip, lr)
            places += zip(new, (value.name for value in old), strict=True)
    aliases = tuple(Alias(new.name, old) for new, old in places)
    returned = (*outputs.values(), norm, *layers, *(new for new, _ in places))
    return builder.finish(returned, (*graph.aliases, *aliases))


def _gradient(outputs: dict[str, Value], param: Value) -> Value:
    """The gradient of a param, taken from the outputs."""
    if f"{param.name}.grad" not in outputs:
        raise GraphError(f"the param {param} has no gradient; run the pass grad first")
    return outputs.pop(f"{param.name}.grad")


def _clipping(
    builder: GraphBuilder, loss: Value, gradients: list[Value], max_norm: float
) -> tuple[Value, Value, Value]:
    """The norm of the gradients, the factor that clips them, and whether all is still sound."""
    raw = builder.op("global_norm", *gradients, name="grad_norm.raw")
    sound = builder.add_input(SOUND, TensorType(DType.I32, ()), Role.STATE)
    names = ("grad_norm", f"{SOUND}.new")
    norm, sound = builder.ops("guard", raw, loss, sound, names=names)
    return norm, builder.op("clip_factor", norm, name="clip", max_norm=max_norm), sound


def _layer_norms(
    builder: GraphBuilder, params: tuple[Value, ...], gradients: list[Value]
) -> tuple[Value, ...]:
    """The norm of each layer's gradients, in the order of their numbers."""
    layers: dict[int, list[Value]] = {}
    for param, gradient in zip(params, gradients, strict=True):
        if found := _LAYER.search(param.name):
            layers.setdefault(int(found[1]), []).append(gradient)
    return tuple(
        builder.op("global_norm", *own, name=f"{LAYER_NORM}{number}")
        for number, own in sorted(layers.items())
    )


def _state_of(builder: GraphBuilder, param: Value, suffix: str) -> Value:
    return builder.add_input(f"{param.name}.{suffix}", param.type, Role.STATE)


def _new_names(*old: Value) -> tuple[str, ...]:
    return tuple(f"{value.name}.new" for value in old)


def _decay_of(param: Value, decay: float, exempt: tuple[str, ...]) -> float:
    return 0.0 if any(param.name.endswith(end) for end in exempt) else decay
