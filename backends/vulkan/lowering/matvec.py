"""Products of few rows with ternary weights: several of the same x in one dispatch.

Rules that know what belongs together give `ternary_matvec` its members; what the kernel does for
them is in its head (shaders/ternary_matvec.comp).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....graph.ir import Value
from ....graph.ops import op_def
from ....graph.tensors import GROUP, Array, HostValue, Quantized
from ....passes.fuse.projections import FEW_ROWS
from ..layout import assign
from ..limits import Limits
from ..variants import with_members
from .ahead import Parts, Spans, shared_bytes, with_parts
from .attention import merged
from .calls import Lowering, Meaning, Rule, groups_for
from .meanings import arrays

_STRIP = 64
"""Weights that a thread reads at once."""
_MOST_LOADS = 7
"""Strips of a column that a thread has in flight at most, if lanes suffice."""
_GROUPS_WANTED = 80
"""Workgroups for each row that keep a large device busy."""
_WORKGROUP = 128
_NORMING, _GATING = 256, 512
"""Threads of a workgroup that has a norm to take first: fewer and larger ones."""


@dataclass(frozen=True)
class Member:
    """One of several products of the same x.

    Attributes:
        w: its weights.
        y: its result, or the cache that gets its rows.
        low, b: factors of an adapter's part, low [rows, rank] times b^T; `low` may stand for
            what is in the `parts` around it.
        turns: whether its heads are rotated.
        keeps: whether y is a cache.
    """

    w: Value
    y: Value
    low: Value | None = None
    b: Value | None = None
    turns: bool = False
    keeps: bool = False


@dataclass(frozen=True)
class Around:
    """What the members of a dispatch have in common.

    Attributes:
        norm, eps: the weight of the norm that is taken of x and quantized first.
        added: a residual, for one member alone.
        table: angles for those that turn.
        slots: rows of the caches.
        gate: the activation of the first of two members, which the second is multiplied by.
        parts: what was added up ahead of the members' `low`, which then are not read.
        spans: what x is merged of, which then is not read.
    """

    norm: Value | None = None
    eps: float = 0.0
    added: Value | None = None
    table: Value | None = None
    slots: Value | None = None
    gate: str = ""
    parts: Parts | None = None
    spans: Spans | None = None


def is_matvec(x: Value) -> bool:
    """Whether a product with x is one of few rows that the kernel takes."""
    rows, inner = x.type.shape
    return rows <= FEW_ROWS and inner % GROUP == 0 and inner * 128 < 1 << 24


def norm_fits(x: Value, limits: Limits) -> bool:
    """Whether shared memory has room for the codes of x, and for sums over a workgroup."""
    constants = {"INNER": x.type.size, "WORKGROUP": _threads(limits, _GATING)}
    return shared_bytes("ternary_matvec", constants) <= limits.shared_memory


def most_members(around: Around, has_low: bool, limits: Limits) -> int:
    """How many members one dispatch can bind."""
    shared = (around.norm, around.added, around.table, around.slots)
    common = 1 + sum(value is not None for value in shared)
    return (limits.bindings - common) // (4 if has_low else 2)


def ternary_matvec(lowering: Lowering, x: Value, members: Sequence[Member], around: Around) -> None:
    """Call the kernel: y = x w^T for all members, and what is around them.

    Either all members have an adapter's part, of one rank, or none has. A member that keeps writes
    into its y, which must hold the cache's old rows.
    """
    rows, inner = x.type.shape
    limits = lowering.limits
    columns = sum(member.w.type.shape[0] for member in members)
    sizes = _lanes(rows, inner, columns, around, limits)
    constants: dict[str, int | float] = {"ROWS": rows, "INNER": inner, **sizes}
    operands = {"x": x}
    for number, member in enumerate(members):
        named = {"w": member.w, "b": member.b}
        if around.parts is None:
            named["low"] = member.low
        if not around.gate or number == 0:
            named["y"] = member.y
        operands |= {f"{name}{number}": v for name, v in named.items() if v is not None}
        constants[f"COLUMNS{number}"] = columns = member.w.type.shape[0]
        if around.table is not None:
            constants[f"TURNS{number}"] = int(member.turns)
        if around.slots is not None:
            constants[f"PLACES{number}"] = member.y.type.size // columns
            constants[f"KEEPS{number}"] = int(member.keeps)
        if member.low is not None:
            constants["RANK"] = member.low.type.shape[1]
            if around.parts is not None:
                constants[f"FIRST{number}"] = around.parts.first[member.low.name]
    named = {"norm": around.norm, "added": around.added, "table": around.table}
    named["slots"] = around.slots
    operands |= {name: value for name, value in named.items() if value is not None}
    if around.parts is not None:
        operands["parts"] = around.parts.value
        count, stack = around.parts.value.type.shape
        constants |= {"PART_COUNT": count, "PART_STACK": stack, "FACTOR": around.parts.factor}
    if around.spans is not None:
        operands |= {"x": around.spans.o, "lse": around.spans.lse}
        constants["SPANS"], constants["HEADS"] = around.spans.lse.type.shape[1:]
    if around.norm is not None:
        constants["EPS"] = around.eps
    if around.table is not None:
        constants["WIDTH"] = around.table.type.shape[1]
    if around.gate:
        constants["SILU"] = int(around.gate == "silu")
    groups = _groups(members, around, sizes["WORKGROUP"] // sizes["LANES"])
    kernel = with_members(f"ternary_matvec{_options(members, around, limits)}", len(members))
    lowering.call(kernel, groups_for(groups, 1, limits), constants, **operands)


def _options(members: Sequence[Member], around: Around, limits: Limits) -> str:
    given = {
        "+dot": "integer_dot_product" in limits.features,
        "+shuffled": _shuffles(limits),
        "+normed": around.norm is not None,
        "+merged": around.spans is not None,
        "+low": members[0].low is not None,
        "+parts": around.parts is not None,
        "+added": around.added is not None,
        "+gated": bool(around.gate),
        "+rotated": around.table is not None,
        "+kept": around.slots is not None,
    }
    return "".join(option for option, wanted in given.items() if wanted)


def _shuffles(limits: Limits) -> bool:
    return {"subgroup_shuffle", "full_subgroups"} <= limits.features


def _threads(limits: Limits, wanted: int) -> int:
    room = limits.shared_memory // 64
    return min(wanted, limits.invocations, 32 * limits.subgroup, 1 << room.bit_length() - 1)


def _lanes(rows: int, inner: int, columns: int, around: Around, limits: Limits) -> dict[str, int]:
    """Threads that share sums, and those of a workgroup: few loads each, all of them in flight."""
    strips, most = inner // _STRIP, limits.subgroup if _shuffles(limits) else 32
    wanted = _GROUPS_WANTED * rows
    workgroup = _WORKGROUP
    if around.norm is not None:
        workgroup = _threads(limits, _GATING if around.gate else _NORMING)
    lanes = 2
    while lanes < min(most, strips) and (
        math.ceil(strips / lanes) > _MOST_LOADS or columns * lanes < 2 * wanted * workgroup
    ):
        lanes *= 2
    sizes = {"LANES": lanes, "WORKGROUP": workgroup}
    return {**sizes, "SUBGROUP_SIZE": limits.subgroup} if _shuffles(limits) else sizes


def _groups(members: Sequence[Member], around: Around, items: int) -> int:
    """Workgroups: each member's items begin with one."""
    if around.gate:
        return math.ceil(members[0].w.type.shape[0] / items)
    pairs = (math.ceil(member.w.type.shape[0] / 2) for member in members)
    return sum(math.ceil(pair / items) for pair in pairs)


def _evaluate(op: str, *operands: HostValue, **attrs: object) -> Array:
    result = op_def(op).eval(*operands, **attrs)
    assert isinstance(result, np.ndarray)
    return result


def _meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    operands = dict(operands)
    if "lse" in operands:
        operands["x"] = _merged(*arrays(operands, "x", "lse"))
    x = operands["x"]
    if "norm" in operands:
        normed = _evaluate("rms_norm", x, operands["norm"], eps=float(constants["EPS"]))
        codes = op_def("quantize").eval(normed)
        assert isinstance(codes, Quantized)
        x = codes
    lows = _lows(constants, operands)
    results = []
    for number in range(sum(name[0] == "w" and name[1:].isdigit() for name in operands)):
        y = _evaluate("ternary_matmul", x, operands[f"w{number}"])
        if number in lows:
            (b,) = arrays(operands, f"b{number}")
            y = y + lows[number] @ b.T
        results.append(y)
    if "SILU" in constants:
        active = _evaluate("silu" if constants["SILU"] else "squared_relu", results[0])
        results = [active * results[1]]
    for number, y in enumerate(results):
        for added in arrays(operands, *operands.keys() & {"added"}):
            y = y + added
        if constants.get(f"TURNS{number}"):
            (table,) = arrays(operands, "table")
            heads = y.reshape(len(y), -1, table.shape[1])
            y = _evaluate("rope", heads, table, inverse=False).reshape(y.shape)
        target = operands[f"y{number}"]
        if constants.get(f"KEEPS{number}"):
            cache, slots = arrays(operands, f"y{number}", "slots")
            inside = (slots >= 0) & (slots < len(cache))
            cache[slots[inside]] = y[inside]
        else:
            assign(target, y)


def _merged(x: Array, lse: Array) -> Array:
    """The row that spans of keys give."""
    spans, heads = lse.shape
    o, _ = merged(x.reshape(1, spans, heads, -1), lse[None])
    return o.reshape(1, -1)


def _lows(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> dict[int, Array]:
    """The adapters' narrow products by member, those that are parts still to be added up too."""
    numbers = [int(name[1:]) for name in operands if name[0] == "b" and name[1:].isdigit()]
    if "parts" not in operands:
        return {number: arrays(operands, f"low{number}")[0] for number in numbers}
    x, parts = arrays(operands, "x", "parts")
    inverse_rms = 1 / np.sqrt(np.mean(x * x) + np.float32(constants["EPS"]))
    for lse in arrays(operands, *operands.keys() & {"lse"}):
        weights = np.exp(lse - lse.max(axis=0))
        parts = parts * (weights / weights.sum(axis=0)).reshape(-1, 1)
    sums = parts.sum(axis=0) * (np.float32(constants["FACTOR"]) * inverse_rms)
    rank = int(constants["RANK"])
    first = {number: int(constants[f"FIRST{number}"]) for number in numbers}
    return {number: sums[None, first[number] : first[number] + rank] for number in numbers}


RULES: dict[str, Rule] = {}
MEANINGS: dict[str, Meaning] = {"ternary_matvec": with_parts(_meaning, "y0")}
