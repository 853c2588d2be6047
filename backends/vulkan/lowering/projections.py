"""The rule of the fused pattern `projections`: products of few rows and what is around them."""

from dataclasses import replace

from ....graph.ir import Node, Value
from ....passes.fuse.group import fused_node
from ....passes.fuse.projections import Branch, Projected, Projections, projected
from ....passes.fuse.view import View
from .adapters import thin_products
from .ahead import Spans, maker, parts_ahead, spans_merged
from .calls import Lowering, Meaning, Rule, fused_rule
from .copies import start_from
from .matvec import Around, Member, is_matvec, most_members, norm_fits, ternary_matvec

_SMALLER = ("products", "low_products", "norm_quantize")
"""Patterns of what a device computes apart where it cannot do all of a group at once."""
_MOST_SPANS = 4
"""Spans of keys that each product merges for itself: it keeps them in registers."""
_MOST_HEADS = 64
"""Heads of them: a thread each weighs their spans."""


def _projections(lowering: Lowering, node: Node) -> None:
    view = View.inside(node)
    products = [inner for inner in view.graph.nodes if inner.op == "ternary_matmul"]
    group = projected(view, products[0].inputs[0], products)
    if not _fits(lowering, group):
        lowering.lower_apart(node, _SMALLER)
        return
    x, around = _normed(lowering, group)
    if group.gate is not None:
        active, gated = group.gate.nodes
        members = [_member(b, gated.outputs[0]) for b in (group.gate.gate, group.gate.up)]
        ternary_matvec(lowering, x, members, replace(around, gate=active.op))
        return
    for branches, around_them in _alike(group, around):
        most = most_members(around_them, branches[0].rank > 0, lowering.limits)
        for begin in range(0, len(branches), most):
            some = branches[begin : begin + most]
            ternary_matvec(lowering, x, [_kept(lowering, b) for b in some], around_them)


def _normed(lowering: Lowering, group: Projected) -> tuple[Value, Around]:
    """What is multiplied, and the norm that the products take themselves: they do of one row."""
    codes = group.branches[0].product.inputs[0]
    if group.norm is None:
        return codes, Around()
    norm, _ = group.norm
    x, weight = norm.inputs
    if x.type.shape[0] > 1 or not norm_fits(x, lowering.limits):
        lowering.lower(fused_node("norm_quantize", group.norm, (codes,)))
        thin_products(lowering, group.lows, norm)
        return codes, Around()
    parts = parts_ahead(lowering, group.lows, norm) if group.lows else None
    if parts is None and group.lows:
        thin_products(lowering, group.lows, norm)
    spans = _spans(lowering, x) if parts is not None or not group.lows else None
    return x, Around(norm=weight, eps=norm.attributes["eps"], parts=parts, spans=spans)


def _spans(lowering: Lowering, x: Value) -> Spans | None:
    """The spans of keys that x is merged of, if they are so few that products can merge them."""
    position = maker(lowering, x)
    spans = None if position is None else spans_merged(lowering.calls[position])
    if spans is None:
        return None
    _, count, heads, width = spans.o.type.shape
    fits = count <= _MOST_SPANS and heads <= _MOST_HEADS and width % 4 == 0
    return spans if fits else None


def _fits(lowering: Lowering, group: Projected) -> bool:
    """Whether one dispatch, or one for each kind of member, can do it."""
    limits = lowering.limits
    x = group.branches[0].product.inputs[0]
    if not is_matvec(x):
        return False
    ranks = {branch.rank for branch in group.branches}
    if group.gate is not None and len(ranks) > 1:
        return False
    everything = Around(norm=x, table=x, slots=x)
    needed = len(group.branches) if group.gate is not None else 1
    values = [v for b in group.branches for n in b.nodes for v in (*n.inputs, *n.outputs)]
    bound = all(value.type.nbytes <= limits.max_range for value in values)
    return bound and most_members(everything, any(ranks), limits) >= needed


def _alike(group: Projected, around: Around) -> list[tuple[list[Branch], Around]]:
    """Branches that one dispatch may take, and what is around those."""
    kinds: dict[object, list[Branch]] = {}
    for branch in group.branches:
        kinds.setdefault((branch.rank, branch.added), []).append(branch)
    found: list[tuple[list[Branch], Around]] = []
    for branches in kinds.values():
        tables = [branch.rope.inputs[1] for branch in branches if branch.rope is not None]
        slots = [branch.kept.inputs[2] for branch in branches if branch.kept is not None]
        common = len(set(tables)) <= 1 and len(set(slots)) <= 1
        together = common and branches[0].added is None
        for some in [branches] if together else [[branch] for branch in branches]:
            found.append((some, _with_operands(some, around)))
    return found


def _with_operands(branches: list[Branch], around: Around) -> Around:
    tables = (branch.rope.inputs[1] for branch in branches if branch.rope is not None)
    slots = (branch.kept.inputs[2] for branch in branches if branch.kept is not None)
    return replace(
        around,
        added=branches[0].added,
        table=next(tables, None),
        slots=next(slots, None),
        parts=around.parts if branches[0].rank else None,
    )


def _member(branch: Branch, y: Value) -> Member:
    low, b = (None, None) if branch.up is None else branch.up.inputs
    turns, keeps = branch.rope is not None, branch.kept is not None
    return Member(branch.product.inputs[1], y, low, b, turns, keeps)


def _kept(lowering: Lowering, branch: Branch) -> Member:
    if branch.kept is not None:
        start_from(lowering, branch.kept.inputs[0], branch.result)
    return _member(branch, branch.result)


RULES: dict[str, Rule] = {fused_rule(Projections.name): _projections}
MEANINGS: dict[str, Meaning] = {}
