"""How much work kernels do: operations of matrix products, and bytes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ...backends.vulkan.lowering import label_of
from ...backends.vulkan.schedule import Access, Dispatch
from ...backends.vulkan.variants import base_of
from ...graph.ir import Graph, Node
from ...graph.ops.fused import FUSED, body_of
from ...graph.types import DType
from ...passes.checkpoint.costs import ESTIMATES

_PREPARING: Final = frozenset(
    {
        "advance",
        "attention_merge",
        "attention_power",
        "attention_share",
        "cross_entropy_merge",
        "halves_finish",
        "labelled_rows",
        "listed_halves",
        "listed_sums",
        "logits_partial",
        "row_dot",
        "row_halves",
        "row_power",
        "softmax_grad",
        "sum_parts",
        "ternary_halves",
        "thin_sum",
    }
)
"""Kernels that prepare a product or finish it, and do nothing of it."""

_MOVING: Final = frozenset(
    {
        "fetch",
        "gather_rows_f16",
        "gather_rows_f32",
        "scatter_add_rows",
        "store",
        "write_rows",
    }
)
"""Kernels that read or write a few rows of their largest operand."""


@dataclass(frozen=True)
class Work:
    """What a dispatch does.

    Attributes:
        operations: of matrix products; a multiplication and an addition are two.
        on_codes: whether the products are of 8-bit codes.
        bytes: read and written, each operand once.
    """

    operations: float = 0.0
    on_codes: bool = False
    bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        codes = self.on_codes or other.on_codes
        return Work(self.operations + other.operations, codes, self.bytes + other.bytes)


def operations_of(node: Node, keys: float | None = None) -> tuple[float, bool]:
    """Operations of a node's products, and whether the most of them are on 8-bit codes.

    Args:
        node: a fused one counts as what it stands for.
        keys: how many keys a query of attention sees on average; None for half of them.
    """
    parts = body_of(node).nodes if node.op == FUSED else (node,)
    totals = {True: 0.0, False: 0.0}
    for part in parts:
        if part.op not in ESTIMATES:
            continue
        work, _ = ESTIMATES[part.op]
        operations = work(tuple(value.type for value in part.inputs))
        if part.op.startswith("attention") and keys is not None:
            operations *= keys / (part.inputs[1].type.shape[0] / 2)
        totals[part.inputs[0].type.dtype is DType.Q8] += operations
    return totals[True] + totals[False], totals[True] > totals[False]


def bytes_of(dispatch: Dispatch) -> int:
    """Bytes that a dispatch moves if it reads and writes every operand once."""
    sizes = sorted(binding.slice.size for binding in dispatch.bindings)
    if base_of(dispatch.kernel) in _MOVING:
        return 2 * sizes[-2]
    places: dict[tuple[str, int, int], int] = {}
    for binding in dispatch.bindings:
        place = binding.slice
        times = 2 if binding.access is Access.UPDATE else 1
        key = (place.buffer, place.offset, place.size)
        places[key] = places.get(key, 0) + times * place.size
    return sum(places.values())


def work_of(
    graph: Graph, dispatches: Sequence[Dispatch], seconds: Sequence[float], keys: float | None
) -> list[Work]:
    """The work of each dispatch.

    The operations of a node are shared by its dispatches in proportion to their seconds, those
    left out that only prepare or finish a product.
    """
    nodes = nodes_by_label(graph)
    shares: dict[str, float] = defaultdict(float)
    for dispatch, taken in zip(dispatches, seconds, strict=True):
        shares[dispatch.label] += taken * _multiplies(dispatch)
    found = {label: operations_of(node, keys) for label, node in nodes.items()}
    works = []
    for dispatch, taken in zip(dispatches, seconds, strict=True):
        operations, on_codes = found.get(dispatch.label, (0.0, False))
        whole = shares[dispatch.label]
        share = taken * _multiplies(dispatch) / whole if whole else 0.0
        works.append(Work(operations * share, on_codes and share > 0, bytes_of(dispatch)))
    return works


def _multiplies(dispatch: Dispatch) -> bool:
    finishes = "rest" in dispatch.kernel.split("+")
    return base_of(dispatch.kernel) not in _PREPARING and not finishes


def nodes_by_label(graph: Graph) -> Mapping[str, Node]:
    """The node that dispatches of a label compute."""
    return {label_of(node): node for node in graph.nodes}


def shape_of(node: Node) -> str:
    """Sizes, for people: rows x columns x inner length of a node's largest product.

    That of the last result where it multiplies nothing.
    """
    parts: Iterable[Node] = body_of(node).nodes if node.op == FUSED else (node,)
    products = [part for part in parts if part.op in ESTIMATES]
    if not products:
        return "x".join(map(str, node.outputs[-1].type.shape)) or "1"
    largest = max(products, key=lambda part: operations_of(part)[0])
    return _product_shape(largest)


def _product_shape(node: Node) -> str:
    types = [value.type for value in node.inputs]
    if node.op.startswith("attention"):
        rows, heads, width = types[0].shape
        return f"{rows}x{types[1].shape[0]} keys, {heads} heads of {width}"
    sizes: tuple[int, ...]
    if node.op == "contract_rows":
        sizes = (types[0].shape[1], types[1].shape[1], types[0].shape[0])
    elif node.op == "linear_cross_entropy_grad":
        sizes = (*types[2].shape[:1], *types[3].shape)
    elif node.op == "linear_cross_entropy":
        sizes = (*types[0].shape[:1], *types[1].shape)
    else:
        sizes = (*node.outputs[0].type.shape, types[0].shape[1])
    return "x".join(map(str, sizes))
