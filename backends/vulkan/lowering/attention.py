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
from .meanings import arrays, of_op

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
    constants = _tile_constants(lowering.limits, node)
    groups = (-(-rows // (4 * int(constants["LANES"]))), heads, 1)
    operands = {"q": q, "k": k, "v": v, "first": first, "last": last}
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
    constants = _tile_constants(lowering.limits, grad)
    pairs_meet = grad.outputs[0].type.shape[2] % (8 * int(constants["LANES"])) == 0
    if pairs_meet and all(rope.attributes["inverse"] for rope in ropes):
        outputs = match["dq_turned"], match["dk_turned"], match["dv"]
        _gradient_calls(lowering, grad, outputs, match["table"])
    else:
        lowering.lower_apart(node)


def _gradient_calls(
    lowering: Lowering, node: Node, outputs: tuple[Value, ...], table: Value | None = None
) -> None:
    names = ("q", "k", "v", "lse", "delta", "dout", "first", "last")
    operands = dict(zip(names, node.inputs, strict=True))
    dq, dk, dv = outputs
    rows, heads, width = dq.type.shape
    keys, kv_heads, _ = dk.type.shape
    constants = _tile_constants(lowering.limits, node)
    tile = 4 * int(constants["LANES"])
    rotated = ""
    if table is not None:
        rotated, operands["table"] = "+rotated", table
    groups = (-(-rows // tile), heads, 1)
    lowering.call(f"attention_dq{rotated}", groups, constants, **operands, dq=dq)
    groups = (-(-keys // tile), heads, 1)
    if heads == kv_heads:
        lowering.call(f"attention_dkv{rotated}", groups, constants, **operands, dk=dk, dv=dv)
        return
    each = tensor("f32", keys, heads, width)
    of_head = {"dk": lowering.scratch(each), "dv": lowering.scratch(each)}
    lowering.call(f"attention_dkv{rotated}", groups, constants, **operands, **of_head)
    lowering.call(
        "attention_share",
        groups_for(dk.type.size, 256, lowering.limits),
        {"KEYS": keys, "HEADS": heads, "KV_HEADS": kv_heads, "WIDTH": width},
        head_dk=of_head["dk"],
        head_dv=of_head["dv"],
        dk=dk,
        dv=dv,
    )


def _sizes(node: Node) -> dict[str, int | float]:
    rows, heads, width = node.inputs[0].type.shape
    keys, kv_heads, _ = node.inputs[1].type.shape
    scale = float(np.float32(1 / math.sqrt(width)))
    sizes = {"ROWS": rows, "KEYS": keys, "HEADS": heads, "KV_HEADS": kv_heads, "WIDTH": width}
    return {**sizes, "SCALE": scale}


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


def _dq_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    (dq,) = arrays(operands, "dq")
    dq[...] = _turned_back(_gradients(operands, each=False)[0], operands)


def _dkv_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    dk, dv = arrays(operands, "dk", "dv")
    _, head_dk, dv[...] = _gradients(operands, each=True)
    dk[...] = _turned_back(head_dk, operands)


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
        keys, kv_heads, width = target.shape
        target[...] = each.reshape(keys, kv_heads, -1, width).sum(axis=2)


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
    **dict([of_op("attention", "attention")]),
    "attention_few": _few_meaning,
    "attention_split": _split_meaning,
    "attention_merge": _merge_meaning,
    "attention_dq": _dq_meaning,
    "attention_dkv": _dkv_meaning,
    "attention_share": _share_meaning,
}
