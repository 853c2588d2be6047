"""What a node costs: an estimate for every op, and tables measured on a device.

`bitgraph tune` writes a table as JSON (docs/checkpointing.md has its format):

    {"format": 1, "device": "…", "seconds": {"add(f32[4,16], f32[4,16])": 1.2e-6, …}}
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ...graph.errors import BitgraphError
from ...graph.ir import Node
from ...graph.ops.fused import FUSED, body_of
from ...graph.text import format_attr
from ...graph.types import TensorType

BANDWIDTH: Final = 1e12
"""Bytes that are read and written in a second."""

DISPATCH: Final = 3e-6
"""Seconds that the smallest node takes."""

FORMAT: Final = 1
"""Version of the file."""

_Work = Callable[[tuple[TensorType, ...]], float]


def _product(types: tuple[TensorType, ...]) -> float:
    """A matrix product over the last axis of the first operand."""
    x, w = types[:2]
    return 2.0 * x.size * w.size / max(x.shape[-1], 1)


def _loss_grad(types: tuple[TensorType, ...]) -> float:
    """Logits once more, then their gradient through the table."""
    return 2 * _product(types[2:4])


def _contraction(types: tuple[TensorType, ...]) -> float:
    a, b = types[:2]
    return 2.0 * a.size * b.shape[-1]


def _attention(types: tuple[TensorType, ...]) -> float:
    """Two products of queries and keys, half of which are masked."""
    q, k = types[:2]
    return 2.0 * q.size * k.shape[0]


def _attention_grad(types: tuple[TensorType, ...]) -> float:
    return 2.5 * _attention(types)


ESTIMATES: Final[Mapping[str, tuple[_Work, float]]] = {
    #  op                        operations        of which so many are done in a second
    "ternary_matmul":            (_product,        60e12),
    "ternary_matmul_t":          (_product,        30e12),
    "matmul":                    (_product,        8e12),
    "contract_rows":             (_contraction,    8e12),
    "attention":                 (_attention,      8e12),
    "attention_grad":            (_attention_grad, 8e12),
    "linear_cross_entropy":      (_product,        30e12),
    "linear_cross_entropy_grad": (_loss_grad,      30e12),
    "linear_cross_entropy_table_grad": (_loss_grad, 8e12),
}  # fmt: skip
"""Ops that take longer than it takes to move their bytes, as on a large GPU.

Only the relations between ops matter for what is chosen.
"""


def estimate(node: Node) -> float:
    """Seconds that a node takes, from its op and its shapes alone."""
    moved = sum(value.type.nbytes for value in (*node.inputs, *node.outputs))
    nodes = body_of(node).nodes if node.op == FUSED else (node,)
    return DISPATCH + max(sum(map(_computing, nodes)), moved / BANDWIDTH)


def _computing(node: Node) -> float:
    """Seconds that the operations of a product take, 0 for any other op."""
    if node.op not in ESTIMATES:
        return 0.0
    work, speed = ESTIMATES[node.op]
    return work(tuple(value.type for value in node.inputs)) / speed


def signature(node: Node) -> str:
    """What tells nodes of different cost apart: op, operand types, attributes."""
    attrs = ", ".join(f"{name}={format_attr(value)}" for name, value in node.attrs)
    operands = ", ".join(str(value.type) for value in node.inputs)
    return f"{node.op}({operands})" + (f" {{{attrs}}}" if attrs else "")


@dataclass(frozen=True)
class CostTable:
    """Seconds of nodes by their signatures, measured on a device.

    A node that is not in the table is estimated, and the estimate is corrected by how far those of
    the same op, or else of all ops, were off.

    Attributes:
        device: where they were measured; empty for none.
        seconds: by `signature`.
        factors: measured over estimated seconds, the median of each op; that of all under "".
    """

    device: str = ""
    measured: Mapping[str, float] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)

    def seconds(self, node: Node) -> float:
        """Seconds that a node takes."""
        known = self.measured.get(signature(node))
        if known is not None:
            return known
        return estimate(node) * self.factors.get(node.op, self.factors.get("", 1.0))


NOMINAL: Final = CostTable()
"""The table without measurements."""


def table_of(device: str, measured: Iterable[tuple[Node, float]]) -> CostTable:
    """A table from nodes and the seconds that each of them took."""
    taken = [(node, seconds) for node, seconds in measured if seconds > 0]
    by_signature: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {"": []} if taken else {}
    for node, seconds in taken:
        by_signature.setdefault(signature(node), []).append(seconds)
        for key in (node.op, ""):
            ratios.setdefault(key, []).append(seconds / estimate(node))
    return CostTable(
        device,
        {key: statistics.median(each) for key, each in sorted(by_signature.items())},
        {key: statistics.median(each) for key, each in sorted(ratios.items())},
    )


def format_table(table: CostTable) -> str:
    """The JSON text of a table."""
    record = {
        "format": FORMAT,
        "device": table.device,
        "seconds": dict(table.measured),
        "factors": dict(table.factors),
    }
    return json.dumps(record, indent=1) + "\n"


def parse_table(text: str, source: str) -> CostTable:
    """Inverse of `format_table`.

    Args:
        text: of the file.
        source: its name, for errors.

    Raises:
        BitgraphError: the text is not such a table.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise BitgraphError(f"{source} is not a table of costs; write one with `bitgraph tune`")
    return CostTable(
        str(record.get("device", "")),
        _numbers(record, "seconds", source),
        _numbers(record, "factors", source),
    )


def read_table(path: Path) -> CostTable:
    """A table from its file.

    Raises:
        BitgraphError: it cannot be read, or is not such a table.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BitgraphError(
            f"{path} could not be read ({error}); name a table of costs that `bitgraph tune` wrote"
        ) from None
    return parse_table(text, str(path))


def _numbers(record: dict[str, object], key: str, source: str) -> dict[str, float]:
    found = record.get(key)
    holds = isinstance(found, dict) and all(
        type(number) in (int, float) and math.isfinite(number) and number > 0
        for number in found.values()
    )
    if not holds or not isinstance(found, dict):
        raise BitgraphError(
            f"{source}: '{key}' does not hold positive numbers; write it anew with `bitgraph tune`"
        )
    return {str(name): float(number) for name, number in found.items()}
