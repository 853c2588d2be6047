"""Rules and meanings of the kernels for the family `optimizer`."""

import math
from collections.abc import Mapping

import numpy as np

from ....graph.ir import Node
from ....graph.tensors import HostValue
from ....graph.types import tensor
from .calls import Lowering, Meaning, Part, Rule, groups_for, reducing_workgroup, runs_of
from .copies import flat_groups, start_from
from .meanings import arrays, of_op

_PARTS = 32
"""Workgroups that share a large gradient; their results fill a binding's alignment."""
_RUN = 2048
"""Elements that a workgroup sums at least, so that small gradients do not take many."""
_EXPONENTS = 120
"""Scales of norm_parts are within two to the power of this and of minus this."""
_LOG_ZERO = -1e4
"""Stands for the logarithm of 0: its exponential is 0 too."""


def _global_norm(lowering: Lowering, node: Node) -> None:
    parts = max(_PARTS, lowering.limits.alignment // 8)
    each = tensor("f32", parts, 2)
    runs = [run for gradient in node.inputs for run in runs_of(lowering.limits, gradient)]
    total = len(runs) * parts
    scratch = lowering.scratch(tensor("f32", total, 2))
    for number, (count, (x,)) in enumerate(runs):
        some = Part(scratch, number * each.nbytes, each)
        run = max(_RUN, -(-count // parts))
        groups = groups_for(count, run, lowering.limits)
        workgroup = reducing_workgroup(run, lowering.limits)
        constants = {"COUNT": count, "RUN": run, "PARTS": parts, "WORKGROUP": workgroup}
        lowering.call("norm_parts", groups, constants, x=x, parts=some)
    constants = {"PARTS": total, "WORKGROUP": reducing_workgroup(total, lowering.limits)}
    lowering.call("global_norm", (1, 1, 1), constants, parts=scratch, norm=node.outputs[0])


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
    p, gradient, m, v, clip, lr, step = node.inputs
    for old, new in zip((p, m, v), node.outputs, strict=True):
        start_from(lowering, old, new)
    constants = _adamw_constants(**node.attributes)
    new_p, new_m, new_v = node.outputs
    for count, runs in runs_of(lowering.limits, new_p, gradient, new_m, new_v):
        operands = dict(zip("pgmv", runs, strict=True))
        groups = flat_groups(lowering, count)
        given = {"COUNT": count, **constants}
        lowering.call("adamw", groups, given, **operands, clip=clip, lr=lr, step=step)


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
    x, parts = arrays(operands, "x", "parts")
    run = int(constants["RUN"])
    for number, part in enumerate(parts):
        some = x[number * run : (number + 1) * run].astype(np.float64)
        top = np.max(np.abs(some), initial=0)
        exponent = math.frexp(top)[1] - 1 if top > 0 else -_EXPONENTS
        scale = 2.0 ** min(max(exponent, -_EXPONENTS), _EXPONENTS)
        finite = np.all(np.isfinite(some))
        part[:] = scale, np.sum((some / scale) ** 2) if finite else np.nan


def _global_norm_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    parts, norm = arrays(operands, "parts", "norm")
    scale, total = parts.astype(np.float64).T
    norm[...] = np.minimum(np.sqrt(np.sum(total * scale**2)), np.finfo(np.float32).max)


RULES: dict[str, Rule] = {
    "global_norm": _global_norm,
    "guard": _guard,
    "clip_factor": _clip_factor,
    "adamw": _adamw,
}
MEANINGS: dict[str, Meaning] = dict(
    [
        ("norm_parts", _norm_parts_meaning),
        ("global_norm", _global_norm_meaning),
        of_op("guard", "guard"),
        of_op("clip_factor", "clip_factor", {"max_norm": "MAX_NORM"}),
        of_op(
            "adamw",
            "adamw",
            {"beta1": "BETA1", "beta2": "BETA2", "eps": "EPS", "weight_decay": "WEIGHT_DECAY"},
        ),
    ]
)
