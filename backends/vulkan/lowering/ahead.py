"""Narrow products ahead of their stage: what makes x adds up its part of ``norm(x) A^T``.

An adapter's narrow product needs all of x, so it would be a stage of its own between the kernel
that makes x and the product that it is added to. But it is a sum over the columns of x, and the
norm's factor 1 / rms can be multiplied to it in the end. So the workgroups that make x each add up
a part, of the columns that they make, and those that read it add up the parts (shaders/ahead.glsl).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....graph.ir import Node, Value
from ....graph.tensors import HostValue
from ....graph.types import tensor
from ....passes.fuse.products import Low
from ..kernels import kernel
from ..limits import Limits
from ..schedule import Access
from ..variants import base_of
from .calls import Call, Lowering, Meaning
from .meanings import arrays

_MAKERS = frozenset({"ternary_matvec", "attention_few"})
"""Kernels that can do it for the row that they make."""


@dataclass(frozen=True)
class Parts:
    """What workgroups have added up of several narrow products of the same x.

    Attributes:
        value: f32 [workgroups, rows of all A].
        first: where the rows of each A begin, by the name of the narrow product.
        factor: of the adapter.
    """

    value: Value
    first: Mapping[str, int]
    factor: float


def parts_ahead(lowering: Lowering, lows: Sequence[Low], norm: Node) -> Parts | None:
    """Let the call that makes x add up parts of narrow products of its norm, if it can.

    Args:
        lowering: whose call is replaced.
        lows: the narrow products.
        norm: the node ``rms_norm``, which they read.
    """
    x, weight = norm.inputs
    position = _maker_of_sums(lowering, x)
    if position is None or not _are_alike(lows) or x.type.shape[0] != 1:
        return None
    early = all(value.name in lowering.inputs for value in (weight, *(low.weight for low in lows)))
    call = lowering.calls[position]
    record = kernel(call.kernel)
    ranks = [low.result.type.shape[1] for low in lows]
    able = len(lows) == 1 or base_of(call.kernel) == "ternary_matvec"
    taken = "AHEAD_RANK" in record.constants or _is_several(call)
    if (
        not early
        or not able
        or taken
        or not _has_room(call, sum(ranks), len(lows), lowering.limits)
    ):
        return None
    groups = math.prod(call.groups)
    parts = lowering.scratch(tensor("f32", groups, sum(ranks)))
    constants = dict(call.constants) | {
        "AHEAD_RANK": ranks[0], "GROUPS": groups, "STACK": sum(ranks),
    }  # fmt: skip
    if base_of(call.kernel) == "attention_few":
        constants["AHEAD_COLUMNS"] = x.type.shape[1]
    named = zip((p.name for p in record.parameters), call.operands, strict=True)
    operands = {name: operand.part for name, operand in named}
    more = {"ahead_norm": weight, "parts_ahead": parts}
    more |= {f"a{number}": low.weight for number, low in enumerate(lows)}
    name = f"{call.kernel}+ahead{len(lows)}"
    lowering.replace(position, name, call.groups, constants, **operands, **more)
    begins = np.cumsum([0, *ranks])[:-1].tolist()
    first = {low.result.name: begin for low, begin in zip(lows, begins, strict=True)}
    return Parts(parts, first, lows[0].factor)


def shared_bytes(base: str, constants: Mapping[str, int | float]) -> int:
    """Shared memory of a maker that does nothing ahead, at most."""
    threads = int(constants["WORKGROUP"])
    if base == "attention_few":
        return 24 * threads + 8 * int(constants["KEYS"])
    return int(constants["INNER"]) + 36 * threads


def _has_room(call: Call, stack: int, products: int, limits: Limits) -> bool:
    """Whether a call can bind more and has room for `stack` sums of what a workgroup makes."""
    constants, base = dict(call.constants), base_of(call.kernel)
    if base == "attention_few":
        made = int(constants["WIDTH"])
    else:
        items = int(constants["WORKGROUP"]) // int(constants["LANES"])
        made = items if "SILU" in constants else 2 * items
    room = shared_bytes(base, constants) + made * (stack + 4)
    bindings = len(call.operands) + products + 2
    return room <= limits.shared_memory and bindings <= limits.bindings and made % 4 == 0


def _maker_of_sums(lowering: Lowering, x: Value) -> int | None:
    """Position of the call that makes x, or makes spans of it, if it is one that can do more."""
    position = maker(lowering, x)
    if position is not None and (spans := spans_merged(lowering.calls[position])) is not None:
        position = maker(lowering, spans.o)
    able = position is not None and base_of(lowering.calls[position].kernel) in _MAKERS
    return position if able else None


def maker(lowering: Lowering, x: Value) -> int | None:
    """Position of the call that makes x, None if no call does."""
    while x.name in lowering.views:
        x = lowering.views[x.name]
    for position in reversed(range(len(lowering.calls))):
        operands = lowering.calls[position].operands
        if x in (o.part.value for o in operands if o.access is not Access.READ):
            return position
    return None


@dataclass(frozen=True)
class Spans:
    """What attention gave of spans of keys: o [rows, spans, heads, width], lse without width."""

    o: Value
    lse: Value


def spans_merged(call: Call) -> Spans | None:
    """What a call of attention_merge merges."""
    if call.kernel != "attention_merge":
        return None
    o, lse, *_ = (operand.part.value for operand in call.operands)
    return Spans(o, lse)


def _are_alike(lows: Sequence[Low]) -> bool:
    return len({(low.factor, low.result.type) for low in lows}) == 1


def _is_several(call: Call) -> bool:
    """Whether a call makes several results, as those of queries, keys and values."""
    names = [p.name for p in kernel(call.kernel).parameters if p.access is not Access.READ]
    return len([name for name in names if name.startswith("y")]) > 1


def with_parts(meaning: Meaning, made: str) -> Meaning:
    """The meaning of a kernel that may add up parts: the first of them are the whole sums here.

    Args:
        meaning: of the kernel without them.
        made: its operand that they are made of.
    """

    def both(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        ahead = {"ahead_norm", "parts_ahead"}
        if not operands.keys() & ahead:
            meaning(constants, operands)
            return
        a_names = [name for name in operands if name[0] == "a" and name[1:].isdigit()]
        plain = {k: v for k, v in operands.items() if k not in ahead and k not in a_names}
        meaning(constants, plain)
        x, weight, parts = arrays(operands, made, "ahead_norm", "parts_ahead")
        parts[...] = 0
        sums = [(x.reshape(-1) * weight) @ a.T for a in arrays(operands, *a_names)]
        parts[0] = np.concatenate(sums)

    return both
