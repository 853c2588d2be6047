"""Groups around the products of adapted projections: y = W x + B (s A x), forwards and backwards.

What each finder gives, with its kernels in mind:

- ``low_products``: ``s x A^T`` for all adapters that read the same x;
- ``products``: ternary products of the same codes, each with ``low B^T`` added to it, and a
  residual added or heads rotated;
- ``product_gradients``: the cotangent of an x that several projections read, one sum over them of
  ``dy W + (s dy B) A``;
- ``code_gradients``: the gradients of whole weights whose products read the same codes;
- ``weight_gradients``: the gradients of all A and B that belong to the same x.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...graph.ir import Node, Value
from ...graph.types import DType
from ..checkpoint.rewrite import AGAIN
from .view import View

MOST_MEMBERS = 8
"""Products that one group takes, so that its kernels need not bind too much."""

NARROW = 64
"""Columns or rows up to which a product's result counts as narrow: ranks of adapters."""


@dataclass(frozen=True)
class Low:
    """``s x A^T`` or ``s dy B``: the narrow product of an adapter.

    Attributes:
        x: what is projected.
        factor: the adapter's scale.
        weight: A or B.
        product: the node that multiplies.
        result: what the node that scales gives.
    """

    x: Value
    factor: float
    weight: Value
    product: Node
    result: Value


def low_of(scale: Node, made: Mapping[str, Node]) -> Low | None:
    """The narrow product that a node scales, if it is one."""
    product = made.get(scale.inputs[0].name) if scale.op == "scale" else None
    if product is None or not _is_plain_matmul(product):
        return None
    if product.outputs[0].type.shape[1] > NARROW:
        return None
    x, weight = product.inputs
    return Low(x, scale.attributes["factor"], weight, product, scale.outputs[0])


def _is_plain_matmul(node: Node) -> bool:
    return node.op == "matmul" and all(value.type.dtype is DType.F32 for value in node.inputs)


def _is_across(node: Node) -> bool:
    return _is_plain_matmul(node) and not node.attributes["transpose_b"]


class LowProducts:
    """``low = scale(matmul(x, A))`` for each adapter of the same x."""

    name = "low_products"

    def find(self, view: View) -> Iterator[tuple[Node, ...]]:
        """Groups by x, and by what must be alike for one kernel."""
        groups: dict[object, list[Node]] = {}
        for node in view.graph.nodes:
            low = low_of(node, view.producers)
            if low is None or not _only_for(view, low.product, node):
                continue
            alike = (low.x, low.factor, low.result.type, low.product.attrs, node.scope)
            groups.setdefault(alike, []).extend((low.product, node))
        for group in groups.values():
            yield from _chunks(group, 2 * MOST_MEMBERS)


class Products:
    """``ternary_matmul(x, w)`` for all weights of the same x, with what follows each of them.

    That is an adapter's part, a residual, a rotation.
    """

    name = "products"

    def find(self, view: View) -> Iterator[tuple[Node, ...]]:
        """One group for each x, and those of single products for where that cannot be.

        Products that are computed again (`checkpoint`) have a scope of their own, and are apart.
        """
        alike: dict[object, list[tuple[Node, ...]]] = {}
        for node in view.graph.nodes:
            if node.op == "ternary_matmul":
                alike.setdefault((node.inputs[0], node.scope), []).append(with_rest(view, node))
        for branches in alike.values():
            for begin in range(0, len(branches), MOST_MEMBERS):
                some = branches[begin : begin + MOST_MEMBERS]
                group = tuple(node for branch in some for node in branch)
                if len(some) > 1 and len({id(node) for node in group}) == len(group):
                    yield group
            yield from (branch for branch in branches if len(branch) > 1)


def with_rest(view: View, product: Node) -> tuple[Node, ...]:
    """A product with the sums and the rotation that follow it."""
    branch = tuple(with_sums(view, product))
    return branch + _rotation(view, branch[-1])


def _rotation(view: View, product: Node) -> tuple[Node, ...]:
    """The nodes that take a product apart into heads and rotate them, if these do."""
    heads = only_user(view, product)
    if heads is None or heads.op != "reshape":
        return ()
    rope = only_user(view, heads)
    return () if rope is None or rope.op != "rope" else (heads, rope)


def with_sums(view: View, product: Node) -> Iterator[Node]:
    """A product, an adapter's part with the sum of both, and a sum with something else."""
    yield product
    total = only_user(view, product)
    if total is None or total.op != "add":
        return
    part = view.producers.get(_other(total, product).name)
    if part is not None and _is_up(part) and _only_for(view, part, total):
        yield from (part, total)
        product, total = total, only_user(view, total)
    if total is not None and total.op == "add" and _other(total, product) != product.outputs[0]:
        yield total


class ProductGradients:
    """The cotangent of what several projections read, as a sum over them.

    ``add(ternary_matmul_t(dy, w), matmul(scale(matmul(dy, b)), a))`` and the like, in any order of
    additions, with or without adapters; at most one other thing is added.
    """

    name = "product_gradients"

    def find(self, view: View) -> Iterator[tuple[Node, ...]]:
        """One group for each sum that has a ternary product in it."""
        for node in reversed(view.graph.nodes):
            if node.op == "add" and not _is_added_on(view, node):
                group = _sum_of_products(view, node)
                if group is not None:
                    yield group


def _is_added_on(view: View, node: Node) -> bool:
    """Whether a sum is but a part of a larger one."""
    user = only_user(view, node)
    return user is not None and user.op == "add"


def _sum_of_products(view: View, root: Node) -> tuple[Node, ...] | None:
    """The nodes of a sum, or None if it is not of the kind that a kernel adds up."""
    group: list[Node] = [root]
    others: list[Value] = []
    sums = [root]
    while sums:
        total = sums.pop()
        for value in total.inputs:
            node = view.producers.get(value.name)
            if node is None or not _only_for(view, node, total):
                others.append(value)
            elif node.op == "add":
                sums.append(node)
                group.append(node)
            elif node.op == "ternary_matmul_t":
                group.append(node)
            elif (low := up_of(node, view.producers)) is not None:
                scale = view.producers[low.result.name]
                if not _only_for(view, low.product, scale):
                    return None
                group += [low.product, scale, node]
            else:
                others.append(value)
    fits = through_products(group, view.producers) is not None and len(others) <= 1
    return tuple(group) if fits else None


def up_of(node: Node, made: Mapping[str, Node]) -> Low | None:
    """The narrow product that a node takes back to the full width, if it is ``(s dy B) A``."""
    if not _is_across(node):
        return None
    scale = made.get(node.inputs[0].name)
    low = None if scale is None else low_of(scale, made)
    return low if low is not None and _is_across(low.product) else None


@dataclass(frozen=True)
class Through:
    """A cotangent on its way back through one projection: ``dy W + low A``.

    Attributes:
        product: the node that multiplies with the ternary weight.
        low: the adapter's narrow product, None where there is no adapter.
        weight: A.
    """

    product: Node
    low: Low | None = None
    weight: Value | None = None


def through_products(nodes: Iterable[Node], made: Mapping[str, Node]) -> tuple[Through, ...] | None:
    """The products among the nodes of a sum, each with its adapter's part.

    Args:
        nodes: of the sum.
        made: the node that makes each value.

    Returns:
        None if there is no ternary product, or a narrow one that belongs to none.
    """
    found: dict[Value, Through] = {}
    ups: list[tuple[Low, Value]] = []
    for node in nodes:
        if node.op == "ternary_matmul_t":
            if node.inputs[0] in found:
                return None
            found[node.inputs[0]] = Through(node)
        elif (low := up_of(node, made)) is not None:
            ups.append((low, node.inputs[1]))
    for low, weight in ups:
        if low.x not in found or found[low.x].low is not None:
            return None
        found[low.x] = Through(found[low.x].product, low, weight)
    return tuple(found.values()) or None


class CodeGradients:
    """``contract_rows(dy, dequantize(codes))`` for all projections that read the same codes."""

    name = "code_gradients"

    def find(self, view: View) -> Iterator[tuple[Node, ...]]:
        """One group for each codes whose floats nothing else reads."""
        for node in view.graph.nodes:
            if node.op != "dequantize":
                continue
            (x,) = node.outputs
            users = view.users[x.name]
            fit = all(user.op == "contract_rows" and user.inputs[0] != x for user in users)
            if users and fit and x.name not in view.returned and len(users) <= MOST_MEMBERS:
                yield (node, *users)


class WeightGradients:
    """``contract_rows`` with a narrow side, for the adapters of one x, computed again or not."""

    name = "weight_gradients"

    def find(self, view: View) -> Iterator[tuple[Node, ...]]:
        """Groups by the x that the adapters read."""
        groups: dict[object, list[Node]] = {}
        for node in view.graph.nodes:
            if node.op == "contract_rows" and min(node.outputs[0].type.shape) <= NARROW:
                right = node.inputs[1]
                scale = view.producers.get(right.name)
                low = None if scale is None else low_of(scale, view.producers)
                x = right if low is None else low.x
                groups.setdefault(x.name.removesuffix(AGAIN), []).append(node)
        for group in groups.values():
            yield from _chunks(group, MOST_MEMBERS)


def only_user(view: View, node: Node) -> Node | None:
    """The node that alone reads the one result of another, which the graph does not return."""
    (value,) = node.outputs
    found = view.users[value.name]
    return found[0] if len(found) == 1 and value.name not in view.returned else None


def _only_for(view: View, node: Node, user: Node) -> bool:
    return len(node.outputs) == 1 and only_user(view, node) is user


def _other(total: Node, node: Node) -> Value:
    """The other operand of a sum."""
    first, second = total.inputs
    return second if first == node.outputs[0] else first


def _is_up(node: Node) -> bool:
    if not _is_plain_matmul(node) or not node.attributes["transpose_b"]:
        return False
    return node.inputs[0].type.shape[1] <= NARROW


def taken_in(nodes: Sequence[Node]) -> Value | None:
    """What the sums among some nodes add that none of these makes."""
    made = {value for node in nodes for value in node.outputs}
    summed = (value for node in nodes if node.op == "add" for value in node.inputs)
    return next((value for value in summed if value not in made), None)


def _chunks(group: list[Node], most: int) -> Iterator[tuple[Node, ...]]:
    for begin in range(0, len(group), most):
        yield tuple(group[begin : begin + most])
