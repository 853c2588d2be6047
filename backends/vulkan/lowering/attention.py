"""Rules and meanings of the kernels for the family `attention`: attention and its gradient."""

import math
from collections.abc import Mapping

import numpy as np

from ....graph.ir import Node, Value
from ....graph.ops import op_def
from ....graph.tensors import Array, HostValue
from ....graph.types import GraphError, tensor
from ....passes.fuse.patterns import ATTENTION_GRAD_ROPE
from ..limits import Limits
from .calls import Lowering, Meaning, Rule, fused_rule, groups_for
from .meanings import arrays, of_op, row_powers
from .tiles import SUBGROUP

_FEW_ROWS = 8
"""Queries up to which their keys are split over workgroups: those of sequences decoded together."""
_SPAN = 64
"""Keys of one of those workgroups."""
_FEW_KEYS = 1024
"""Keys of one query up to which attention_few does it, in spans that what comes next can merge."""
_FEW_SPANS = 4
_KEYS_OF_FEW = 128
"""Keys of its spans, if these are few enough."""
_MOST_SHARED = 5
"""Query heads that one of those workgroups works on."""
_SPLIT_THREADS = 128
_FEW_KEYS_SUBGROUPS = 16
"""Subgroups of that workgroup."""
_HIDDEN = -1e30
"""Log of the sum over no keys, as attention_split writes it."""
_UNIT_LINES = 64
"""Queries of any head that a workgroup of attention_cm has."""
_UNIT_TILE = 32
"""Keys that pass it by together; half as many where there are many workgroups."""
_MANY_GROUPS = 256
_UNIT_OWN = 32
"""Queries of any head, or keys, that a workgroup of attention's gradient has."""
_UNIT_THREADS = 128
_GROUPS_WANTED = 1024
"""Workgroups of attention_dkv_cm that keep a large device busy, as some have little to do."""


def _attention(lowering: Lowering, node: Node) -> None:
    q, k, v, first, last = node.inputs
    out, lse = node.outputs
    if _is_small(lowering, q, k):
        _attention_of_few(lowering, node)
        return
    if q.type.shape[0] <= _FEW_ROWS:
        _attention_by_spans(lowering, node)
        return
    rows, heads, _ = q.type.shape
    operands = {"q": q, "k": k, "v": v, "first": first, "last": last}
    if _fits_units(lowering.limits, node):
        groups = _groups_of_lines(node, _UNIT_LINES)
        tile = _UNIT_TILE if math.prod(groups) < _MANY_GROUPS else _UNIT_TILE // 2
        constants = {**_unit_constants(node), "TILE": tile}
        lowering.call("attention_cm", groups, constants, **operands, o=out, lse=lse)
        return
    constants = _tile_constants(lowering.limits, node)
    groups = (-(-rows // (4 * int(constants["LANES"]))), heads, 1)
    lowering.call("attention", groups, constants, **operands, o=out, lse=lse)


def _is_small(lowering: Lowering, q: Value, k: Value) -> bool:
    """Whether attention_few can do it: in subgroups of a known size that shuffle."""
    limits = lowering.limits
    able = limits.features >= {"subgroup_shuffle", "full_subgroups"} and limits.subgroup >= 4
    rows, _, width = q.type.shape
    few = rows == 1 and k.type.shape[0] <= _FEW_KEYS
    return able and few and width % 4 == 0 and width <= 4 * _threads_of_few(limits)


def _threads_of_few(limits: Limits) -> int:
    return min(_FEW_KEYS_SUBGROUPS * limits.subgroup, limits.invocations)


def _attention_of_few(lowering: Lowering, node: Node) -> None:
    q, k, v, first, last = node.inputs
    heads, keys, limits = q.type.shape[1], k.type.shape[0], lowering.limits
    spans = min(_FEW_SPANS, -(-keys // _KEYS_OF_FEW))
    constants = {name: size for name, size in _sizes(node).items() if name != "ROWS"}
    constants |= {"SPANS": spans, "SPAN": -(-keys // spans), "SUBGROUP_SIZE": limits.subgroup}
    constants["WORKGROUP"] = _threads_of_few(limits)
    o, lse = _of_spans(lowering, node, spans)
    operands = {"q": q, "k": k, "v": v, "first": first, "last": last, "o": o, "lse": lse}
    lowering.call("attention_few", (heads, spans, 1), constants, **operands)
    _merge(lowering, node, o, lse)


def _of_spans(lowering: Lowering, node: Node, spans: int) -> tuple[Value, Value]:
    """Where results of spans are kept: those of the node if there is one span."""
    out, lse = node.outputs
    if spans == 1:
        return out, lse
    rows, heads, width = out.type.shape
    return (
        lowering.scratch(tensor("f32", rows, spans, heads, width)),
        lowering.scratch(tensor("f32", rows, spans, heads)),
    )


def _merge(lowering: Lowering, node: Node, span_o: Value, span_lse: Value) -> None:
    """One softmax from those over spans, unless there is one span."""
    out, lse = node.outputs
    if span_o == out:
        return
    rows, heads, width = out.type.shape
    constants = {"ROWS": rows, "HEADS": heads, "WIDTH": width, "SPANS": span_o.type.shape[1]}
    operands = {"span_o": span_o, "span_lse": span_lse, "o": out, "lse": lse}
    lowering.call("attention_merge", (heads, rows, 1), constants, **operands)


def _attention_by_spans(lowering: Lowering, node: Node) -> None:
    q, k, v, first, last = node.inputs
    rows, heads, _ = q.type.shape
    shared = heads // k.type.shape[1]
    share = max(n for n in range(1, _MOST_SHARED + 1) if shared % n == 0)
    spans = -(-k.type.shape[0] // _SPAN)
    constants = {
        **_sizes(node),
        "SPANS": spans,
        "SPAN": min(_SPAN, k.type.shape[0]),
        "SHARE": share,
        "LANES": _SPLIT_THREADS >> (share - 1).bit_length(),
    }
    o, lse = _of_spans(lowering, node, spans)
    operands = {"q": q, "k": k, "v": v, "first": first, "last": last}
    groups = (spans, heads // share, rows)
    lowering.call("attention_split", groups, constants, **operands, o=o, lse=lse)
    _merge(lowering, node, o, lse)


def _attention_grad(lowering: Lowering, node: Node) -> None:
    _gradient_calls(lowering, node, node.outputs)


def _rotated_grad(lowering: Lowering, node: Node) -> None:
    """The gradient for queries and keys that were rotated: turned back as it is written."""
    match = ATTENTION_GRAD_ROPE.bind(node)
    grad, *ropes = match.nodes
    together = _fits_units(lowering.limits, grad) or _pairs_meet(lowering.limits, grad)
    if together and all(rope.attributes["inverse"] for rope in ropes):
        outputs = match["dq_turned"], match["dk_turned"], match["dv"]
        _gradient_calls(lowering, grad, outputs, match["table"])
    else:
        lowering.lower_apart(node)


def _pairs_meet(limits: Limits, node: Node) -> bool:
    """Whether a thread of the kernels without matrix units has both sums of a rotated pair."""
    lanes = int(_tile_constants(limits, node)["LANES"])
    return node.outputs[0].type.shape[2] % (8 * lanes) == 0


def _gradient_calls(
    lowering: Lowering, node: Node, outputs: tuple[Value, ...], table: Value | None = None
) -> None:
    names = ("q", "k", "v", "lse", "delta", "dout", "first", "last")
    operands = dict(zip(names, node.inputs, strict=True))
    dq, dk, dv = outputs
    rotated = ""
    if table is not None:
        rotated, operands["table"] = "+rotated", table
    if _fits_units(lowering.limits, node):
        _gradient_on_units(lowering, node, rotated, operands, outputs)
        return
    rows, heads, _ = dq.type.shape
    keys = dk.type.shape[0]
    constants = _tile_constants(lowering.limits, node)
    tile = 4 * int(constants["LANES"])
    groups = (-(-rows // tile), heads, 1)
    lowering.call(f"attention_dq{rotated}", groups, constants, **operands, dq=dq)
    each_dk, each_dv = _results_of_parts(lowering, heads, dk, dv)
    groups = (-(-keys // tile), heads, 1)
    lowering.call(f"attention_dkv{rotated}", groups, constants, **operands, dk=each_dk, dv=each_dv)
    _add_parts(lowering, heads, (each_dk, each_dv), (dk, dv))


def _gradient_on_units(
    lowering: Lowering,
    node: Node,
    rotated: str,
    operands: Mapping[str, Value],
    outputs: tuple[Value, ...],
) -> None:
    limits = lowering.limits
    dq, dk, dv = outputs
    rows, heads, width = dq.type.shape
    keys = dk.type.shape[0]
    power = lowering.scratch(tensor("f32", rows, heads))
    lowering.call(
        "attention_power",
        groups_for(rows * heads, 64, limits),
        {"ROWS": rows, "HEADS": heads, "WIDTH": width},
        dout=operands["dout"],
        delta=operands["delta"],
        power=power,
    )
    operands = {**operands, "power": power}
    constants = _unit_constants(node)
    groups = _groups_of_lines(node, _UNIT_OWN)
    lowering.call(f"attention_dq_cm{rotated}", groups, constants, **operands, dq=dq)
    tiles = -(-keys // _UNIT_OWN)
    parts = _parts(node, tiles)
    each_dk, each_dv = _results_of_parts(lowering, parts, dk, dv)
    constants |= {"PARTS": parts}
    groups = (tiles, parts, 1)
    kernel = f"attention_dkv_cm{rotated}"
    lowering.call(kernel, groups, constants, **operands, dk=each_dk, dv=each_dv)
    _add_parts(lowering, parts, (each_dk, each_dv), (dk, dv))


def _parts(node: Node, tiles: int) -> int:
    """Into how many parts heads are cut, each of heads that share keys, for enough workgroups."""
    heads, kv_heads = node.inputs[0].type.shape[1], node.inputs[1].type.shape[1]
    choices = [parts for parts in range(kv_heads, heads + 1, kv_heads) if heads % parts == 0]
    return next((parts for parts in choices if tiles * parts >= _GROUPS_WANTED), choices[-1])


def _results_of_parts(lowering: Lowering, parts: int, dk: Value, dv: Value) -> tuple[Value, Value]:
    """Where each part of the heads leaves its gradients for keys and values."""
    keys, kv_heads, width = dk.type.shape
    if parts == kv_heads:
        return dk, dv
    each = tensor("f32", keys, parts, width)
    return lowering.scratch(each), lowering.scratch(each)


def _add_parts(
    lowering: Lowering, parts: int, each: tuple[Value, Value], sums: tuple[Value, Value]
) -> None:
    """Add up the gradients of the parts that share keys."""
    dk, dv = sums
    keys, kv_heads, width = dk.type.shape
    if parts > kv_heads:
        lowering.call(
            "attention_share",
            groups_for(dk.type.size, 256, lowering.limits),
            {"KEYS": keys, "HEADS": parts, "KV_HEADS": kv_heads, "WIDTH": width},
            head_dk=each[0],
            head_dv=each[1],
            dk=dk,
            dv=dv,
        )


def _sizes(node: Node) -> dict[str, int | float]:
    rows, heads, width = node.inputs[0].type.shape
    keys, kv_heads, _ = node.inputs[1].type.shape
    scale = float(np.float32(1 / math.sqrt(width)))
    sizes = {"ROWS": rows, "KEYS": keys, "HEADS": heads, "KV_HEADS": kv_heads, "WIDTH": width}
    return {**sizes, "SCALE": scale}


def _unit_constants(node: Node) -> dict[str, int | float]:
    return {**_sizes(node), "SUBGROUP_SIZE": SUBGROUP}


def _groups_of_lines(node: Node, tile: int) -> tuple[int, int, int]:
    """Workgroups for tiles of the queries of all heads that share keys, and for those heads."""
    rows, heads, _ = node.inputs[0].type.shape
    kv_heads = node.inputs[1].type.shape[1]
    return (-(-rows * (heads // kv_heads) // tile), kv_heads, 1)


def _fits_units(limits: Limits, node: Node) -> bool:
    """Whether a device's matrix units serve for attention of this size."""
    rows, _, width = node.inputs[0].type.shape
    return (
        "cooperative_matrix_f16" in limits.features
        and limits.subgroup == SUBGROUP
        and limits.invocations >= _UNIT_THREADS
        and limits.shared_memory >= _unit_bytes(width)
        and rows > _FEW_ROWS
        and width % 32 == 0
        and width <= 128
    )


def _unit_bytes(width: int) -> int:
    """What attention_cm declares, more than its gradient: tiles, scores, divisors, a range."""
    tiles = 4 * _UNIT_TILE * (width // 8 + 1)
    scores = _UNIT_LINES * (_UNIT_TILE // 4 + 1)
    return 16 * (tiles + scores) + 4 * _UNIT_LINES + 8


def _tile_constants(limits: Limits, node: Node) -> dict[str, int | float]:
    """Sizes, and the largest tile that fits the device's shared memory."""
    width = node.inputs[0].type.shape[2]
    for lanes in (16, 8):
        fits = _shared_bytes(lanes, width) <= limits.shared_memory and width <= 16 * lanes
        if fits:
            return {**_sizes(node), "LANES": lanes, "WORKGROUP": lanes * lanes}
    raise GraphError(f"attention heads of width {width} are too wide for this device")


def _shared_bytes(lanes: int, width: int) -> int:
    """What attention.glsl declares: slices, matrix, low and high."""
    tile = 4 * lanes
    slices = max(2 * tile * 5, 16 * -(-width // 4))
    return 16 * (slices + tile * (lanes + 1)) + 8


def _evaluate(op: str, *operands: Array) -> tuple[Array, ...]:
    results = op_def(op).eval(*operands)
    assert isinstance(results, tuple)
    return tuple(np.asarray(result) for result in results)


def _gradients(operands: Mapping[str, HostValue], *, each: bool) -> tuple[Array, Array, Array]:
    """Results of attention_grad, those for keys and values of each query head apart if asked."""
    q, k, v = arrays(operands, "q", "k", "v")
    if each:
        k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    others = arrays(operands, "lse", "delta", "dout", "first", "last")
    dq, dk, dv = _evaluate("attention_grad", q, k, v, *others)
    return dq, dk, dv


def _power_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    dout, delta, power = arrays(operands, "dout", "delta", "power")
    rows = np.concatenate([dout, delta[..., None]], axis=2)
    power[...] = row_powers(rows.reshape(power.size, -1)).reshape(power.shape)


def _dq_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    (dq,) = arrays(operands, "dq")
    dq[...] = _turned_back(_gradients(operands, each=False)[0], operands)


def _dkv_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    dk, dv = arrays(operands, "dk", "dv")
    _, head_dk, head_dv = _gradients(operands, each=True)
    dk[...] = _turned_back(_summed(head_dk, dk.shape[1]), operands)
    dv[...] = _summed(head_dv, dv.shape[1])


def _summed(each: Array, parts: int) -> Array:
    """Sums over the heads of each part."""
    keys, _, width = each.shape
    sums: Array = each.reshape(keys, parts, -1, width).sum(axis=2)
    return sums


def _turned_back(x: Array, operands: Mapping[str, HostValue]) -> Array:
    """A gradient as it is written: rotated backwards if there is a table of angles."""
    if "table" not in operands:
        return x
    turned = op_def("rope").eval(x, *arrays(operands, "table"), inverse=True)
    assert isinstance(turned, np.ndarray)
    return turned


def _share_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    for name in ("dk", "dv"):
        target, each = arrays(operands, name, f"head_{name}")
        target[...] = _summed(each, target.shape[1])


def _split_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    q, k, v, first, last, o, lse = arrays(operands, "q", "k", "v", "first", "last", "o", "lse")
    span = int(constants["SPAN"])
    for row, number in np.ndindex(o.shape[:2]):
        low = max(first[row], number * span)
        high = min(last[row], number * span + span - 1)
        if low > high:
            o[row, number], lse[row, number] = 0, _HIDDEN
            continue
        seen, one = slice(low, high + 1), slice(row, row + 1)
        all_seen = np.zeros(1, np.int32), np.array([high - low], np.int32)
        (o[row, number],), (lse[row, number],) = _evaluate(
            "attention", q[one], k[seen], v[seen], *all_seen
        )


def _few_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    _split_meaning(constants, operands)
    if "parts_ahead" in operands:
        o, weight, a, parts = arrays(operands, "o", "ahead_norm", "a0", "parts_ahead")
        heads, width = o.shape[2:]
        scaled = o.reshape(-1, heads, width) * weight.reshape(heads, width)
        by_head = a.reshape(len(a), heads, width)
        parts[...] = np.einsum("shw,rhw->shr", scaled, by_head).reshape(parts.shape)


def merged(span_o: Array, span_lse: Array) -> tuple[Array, Array]:
    """One softmax and its lse from those over spans.

    Args:
        span_o: [rows, spans, heads, width].
        span_lse: [rows, spans, heads].
    """
    top = span_lse.max(axis=1)
    weights = np.exp(span_lse - top[:, None])
    total = weights.sum(axis=1)
    o = (weights[..., None] * span_o).sum(axis=1) / total[..., None]
    return o, top + np.log(total)


def _merge_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    span_o, span_lse, o, lse = arrays(operands, "span_o", "span_lse", "o", "lse")
    o[...], lse[...] = merged(span_o, span_lse)


RULES: dict[str, Rule] = {
    "attention": _attention,
    "attention_grad": _attention_grad,
    fused_rule(ATTENTION_GRAD_ROPE.name): _rotated_grad,
}
MEANINGS: dict[str, Meaning] = {
    **dict(of_op("attention", name) for name in ("attention", "attention_cm")),
    "attention_few": _few_meaning,
    "attention_split": _split_meaning,
    "attention_merge": _merge_meaning,
    "attention_dq": _dq_meaning,
    "attention_dkv": _dkv_meaning,
    "attention_power": _power_meaning,
    "attention_dq_cm": _dq_meaning,
    "attention_dkv_cm": _dkv_meaning,
    "attention_share": _share_meaning,
}
