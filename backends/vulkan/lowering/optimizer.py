"""Rules and meanings of the kernels for the family `optimizer`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ....graph.ir import Node
from ....graph.ops import op_def
from ....graph.ops.fused import expanded
from ....graph.tensors import Array, HostValue
from ....graph.types import tensor
from ..layout import assign
from ..limits import Limits
from ..variants import with_members
from .calls import (
    Lowering,
    Meaning,
    Part,
    Rule,
    fused_rule,
    groups_for,
    reducing_workgroup,
    runs_of,
)
from .copies import flat_groups, start_from
from .meanings import arrays, of_op

_RUN = 2048
"""Elements that a workgroup sums at least, so that small gradients do not take many."""
_MOST_RUNS = 4096
"""Workgroups that share the gradients of one dispatch."""
_MOST_MEMBERS = 64
"""Tensors of one dispatch."""
_WORKGROUP = 256
"""Invocations of a workgroup of adamw."""
_EXPONENTS = 120
"""Scales of norm_parts are within two to the power of this and of minus this."""
_LOG_ZERO = -1e4
"""Stands for the logarithm of 0: its exponential is 0 too."""


def _global_norm(lowering: Lowering, node: Node) -> None:
    limits = lowering.limits
    runs = [run for gradient in node.inputs for run in runs_of(limits, gradient)]
    groups = list(_chunks(runs, limits.bindings - 1))
    parts = [_norm_parts(limits, [count for count, _ in group]) for group in groups]
    scratch = lowering.scratch(tensor("f32", sum(count for _, count in parts), 2))
    first = 0
    for group, (run, count) in zip(groups, parts, strict=True):
        each = tensor("f32", count, 2)
        some = Part(scratch, first * 8, each)
        operands = {f"x{k}": x for k, (_, (x,)) in enumerate(group)}
        constants = {"RUN": run, "PARTS": count, "WORKGROUP": reducing_workgroup(run, limits)}
        constants |= {f"COUNT{k}": size for k, (size, _) in enumerate(group)}
        kernel = with_members("norm_parts", len(group))
        lowering.call(kernel, groups_for(count, 1, limits), constants, parts=some, **operands)
        first += count
    constants = {"PARTS": first, "WORKGROUP": reducing_workgroup(first, limits)}
    lowering.call("global_norm", (1, 1, 1), constants, parts=scratch, norm=node.outputs[0])


def _norm_parts(limits: Limits, counts: Sequence[int]) -> tuple[int, int]:
    """Elements of a run, and parts of a dispatch: those of all runs, and some that align them."""
    run = max(_RUN, -(-sum(counts) // _MOST_RUNS))
    parts = sum(-(-count // run) for count in counts)
    aligned = max(1, limits.alignment // 8)
    return run, -(-parts // aligned) * aligned


_T = TypeVar("_T")


def _chunks(items: Sequence[_T], most: int) -> Iterator[Sequence[_T]]:
    most = max(1, min(most, _MOST_MEMBERS))
    for begin in range(0, len(items), most):
        yield items[begin : begin + most]


def _guard(lowering: Lowering, node: Node) -> None:
    norm, loss, sound = node.inputs
    guarded, new_sound = node.outputs
    start_from(lowering, sound, new_sound)
    operands = {"norm": norm, "loss": loss, "guarded": guarded, "sound": new_sound}
    lowering.call("guard", (1, 1, 1), {}, **operands)


def _clip_factor(lowering: Lowering, node: Node) -> None:
    constants = {"MAX_NORM": node.attributes["max_norm"]}
    (norm,), (factor,) = node.inputs, node.outputs
    lowering.call("clip_factor", (1, 1, 1), constants, norm=norm, factor=factor)


def _adamw(lowering: Lowering, node: Node) -> None:
    _updates(lowering, (node,))


def _fused_updates(lowering: Lowering, node: Node) -> None:
    _updates(lowering, expanded(node))


def _updates(lowering: Lowering, nodes: Sequence[Node]) -> None:
    """AdamW on several tensors, all with the same schedule and options."""
    clip, lr, step = nodes[0].inputs[4:]
    members: list[tuple[int, tuple[Part, ...]]] = []
    for node in nodes:
        p, gradient, m, v = node.inputs[:4]
        for old, new in zip((p, m, v), node.outputs, strict=True):
            start_from(lowering, old, new)
        new_p, new_m, new_v = node.outputs
        members += runs_of(lowering.limits, new_p, gradient, new_m, new_v)
    for some in _chunks(members, (lowering.limits.bindings - 3) // 4):
        constants = _adamw_constants(**nodes[0].attributes)
        constants |= {f"COUNT{k}": count for k, (count, _) in enumerate(some)}
        operands = {
            f"{name}{k}": part
            for k, (_, parts) in enumerate(some)
            for name, part in zip("pgmv", parts, strict=True)
        }
        items = sum(_adamw_groups(count) for count, _ in some)
        groups = groups_for(items, 1, lowering.limits)
        kernel = with_members("adamw", len(some))
        lowering.call(kernel, groups, constants, clip=clip, lr=lr, step=step, **operands)


def _adamw_groups(count: int) -> int:
    """Workgroups for so many elements, four an invocation where their number allows it."""
    return -(-(count // 4 if count % 4 == 0 else count) // _WORKGROUP)


def _sgd(lowering: Lowering, node: Node) -> None:
    p, gradient, m, clip, lr = node.inputs
    for old, new in zip((p, m), node.outputs, strict=True):
        start_from(lowering, old, new)
    constants = {
        "MOMENTUM": node.attributes["momentum"],
        "WEIGHT_DECAY": node.attributes["weight_decay"],
    }
    new_p, new_m = node.outputs
    for count, runs in runs_of(lowering.limits, new_p, gradient, new_m):
        operands = dict(zip("pgm", runs, strict=True))
        groups = flat_groups(lowering, count)
        lowering.call("sgd", groups, {"COUNT": count, **constants}, **operands, clip=clip, lr=lr)


def _adamw_constants(
    beta1: float, beta2: float, eps: float, weight_decay: float
) -> dict[str, int | float]:
    return {
        "BETA1": beta1,
        "ALPHA1": 1 - beta1,
        "LOG_BETA1": math.log(beta1) if beta1 else _LOG_ZERO,
        "BETA2": beta2,
        "ALPHA2": 1 - beta2,
        "LOG_BETA2": math.log(beta2) if beta2 else _LOG_ZERO,
        "EPS": eps,
        "WEIGHT_DECAY": weight_decay,
    }


def _norm_parts_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    (parts,) = arrays(operands, "parts")
    run, number = int(constants["RUN"]), 0
    for k in range(len(operands) - 1):
        (x,) = arrays(operands, f"x{k}")
        for begin in range(0, x.size, run):
            parts[number] = _norm_part(x[begin : begin + run].astype(np.float64))
            number += 1
    parts[number:] = 2.0**-_EXPONENTS, 0


def _norm_part(x: Array) -> tuple[float, float]:
    """Scale of a run and the sum of its scaled squares."""
    top = np.max(np.abs(x), initial=0)
    exponent = math.frexp(top)[1] - 1 if top > 0 else -_EXPONENTS
    scale = 2.0 ** min(max(exponent, -_EXPONENTS), _EXPONENTS)
    return scale, float(np.sum((x / scale) ** 2)) if np.all(np.isfinite(x)) else np.nan


def _global_norm_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    parts, norm = arrays(operands, "parts", "norm")
    scale, total = parts.astype(np.float64).T
    norm[...] = np.minimum(np.sqrt(np.sum(total * scale**2)), np.finfo(np.float32).max)


def _adamw_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    attrs = {name: float(constants[name.upper()]) for name in _ADAMW_ATTRS}
    schedule = arrays(operands, "clip", "lr", "step")
    for k in range((len(operands) - 3) // 4):
        p, g, m, v = arrays(operands, *(f"{name}{k}" for name in "pgmv"))
        results = op_def("adamw").eval(p, g, m, v, *schedule, **attrs)
        assert isinstance(results, tuple)
        for target, result in zip((p, m, v), results, strict=True):
            assign(target, result)


_ADAMW_ATTRS = ("beta1", "beta2", "eps", "weight_decay")

RULES: dict[str, Rule] = {
    "global_norm": _global_norm,
    "guard": _guard,
    "clip_factor": _clip_factor,
    "adamw": _adamw,
    fused_rule("updates"): _fused_updates,
    "sgd": _sgd,
}
MEANINGS: dict[str, Meaning] = dict(
    [
        ("norm_parts", _norm_parts_meaning),
        ("global_norm", _global_norm_meaning),
        of_op("guard", "guard"),
        of_op("clip_factor", "clip_factor", {"max_norm": "MAX_NORM"}),
        ("adamw", _adamw_meaning),
        of_op("sgd", "sgd", {"momentum": "MOMENTUM", "weight_decay": "WEIGHT_DECAY"}),
    ]
)
