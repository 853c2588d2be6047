"""How far a backend may be from the NumPy reference, and the check that it is not farther.

A result is compared by its largest error over its largest magnitude. Integers and int8 x ternary
products must be equal up to the rounding of their scaling; sums of floats may differ by the order
they are added in, functions such as exp by what the device's are worth. Gradients on matrix units
take f16 operands, scaled so that nothing overflows: 11 bits of each; so do the probabilities of
attention.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph.build import GraphBuilder
from ..graph.ir import Graph, Node, Role
from ..graph.ops import OPS
from ..graph.ops.fused import FUSED, body_of
from ..graph.ops.record import Case
from ..graph.program import Backend
from ..graph.tensors import HostValue, Quantized, Ternary
from ..graph.types import TensorType
from .numpy.evaluate import evaluate

EXACT = 0.0
ROUNDING = 1e-6
SUMS = 1e-5
FUNCTIONS = 3e-5
UNITS = 1e-3

TOLERANCES: dict[str, float] = {
    "add": EXACT,
    "sub": EXACT,
    "mul": EXACT,
    "scale": EXACT,
    "mul_scalar": EXACT,
    "squared_relu": EXACT,
    "relu": EXACT,
    "full_like": EXACT,
    "dropout": EXACT,
    "reshape": EXACT,
    "add_ids": EXACT,
    "gather_rows": EXACT,
    "write_rows": EXACT,
    "sample": EXACT,
    "penalize": EXACT,
    "until_stop": EXACT,
    "ternary_matmul": ROUNDING,
    "dot": SUMS,
    "row_dot": SUMS,
    "rms_norm": SUMS,
    "rms_norm_grad": 1e-3,  # rows of one column cancel to nearly nothing
    "rms_norm_weight_grad": SUMS,
    "quantize": SUMS,
    "dequantize": ROUNDING,
    "ternarize": SUMS,
    "ternary_matmul_t": UNITS,
    "matmul": SUMS,
    "contract_rows": SUMS,
    "scatter_add_rows": SUMS,
    "global_norm": SUMS,
    "guard": EXACT,
    "clip_factor": ROUNDING,
    "adamw": SUMS,
    "sgd": SUMS,
    "silu": FUNCTIONS,
    "silu_slope": FUNCTIONS,
    "rope_table": 1e-3,  # angles up to 4096: an f32 cosine of that has no more digits everywhere
    "rope": ROUNDING,
    "attention": UNITS,
    "attention_grad": UNITS,
    "linear_cross_entropy": FUNCTIONS,
    "linear_cross_entropy_grad": UNITS,
    "linear_cross_entropy_table_grad": FUNCTIONS,
    "fused": SUMS,
}


@dataclass(frozen=True)
class Finding:
    """One comparison with the reference.

    Attributes:
        subject: what was compared: an op and its operand types, or a graph's output.
        error: largest error over largest magnitude; infinite if a result is not finite.
        tolerance: how large it may be.
        note: why it could not be run, empty if it was.
    """

    subject: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the backend is as near as it must be."""
        return not self.note and self.error <= self.tolerance


def case_graph(op: str, case: Case) -> Graph:
    """The graph of one case of an op; see `op_graph`."""
    return op_graph(op, tuple(operand.type for operand in case.operands), case.attrs)


def op_graph(op: str, types: Sequence[TensorType], attrs: Mapping[str, Any]) -> Graph:
    """The graph of one application of an op; its operands are states named x0, x1, ..."""
    builder = GraphBuilder(op)
    operands = (builder.add_input(f"x{k}", type, Role.STATE) for k, type in enumerate(types))
    return builder.finish(builder.ops(op, *operands, **attrs))


def tolerance_of(node: Node) -> float:
    """How far the results of a node may be off; errors add up along the body of a fused one."""
    nodes = body_of(node).nodes if node.op == FUSED else (node,)
    return sum(TOLERANCES[inner.op] for inner in nodes)


def relative_error(given: HostValue, wanted: HostValue) -> float:
    """Largest error over the largest magnitude wanted; infinite where one is not finite."""
    if isinstance(given, Quantized) and isinstance(wanted, Quantized):
        off = np.abs(given.codes.astype(np.int32) - wanted.codes).max(initial=0)
        scales = relative_error(given.scale, wanted.scale)
        return max(scales, 0.0 if off <= 1 else float(off))  # a tie may round either way
    if isinstance(given, Ternary) and isinstance(wanted, Ternary):
        off = np.abs(given.codes() - wanted.codes()).max(initial=0)
        scales = abs(given.scale - wanted.scale) / wanted.scale
        return max(scales, 0.0 if off <= 1 else float(off))
    first, second = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
    if not np.array_equal(np.isfinite(first), np.isfinite(second)):
        return float("inf")
    error = np.abs(first - second)[np.isfinite(second)].max(initial=0.0)
    size = np.abs(second)[np.isfinite(second)].max(initial=0.0)
    return float(error / size) if size > 0 else float(error)


def check_ops(backend: Backend, seed: int = 0) -> Iterator[Finding]:
    """Compare every fixed case of every op."""
    for op in OPS.values():
        for case in op.cases.all():
            graph = case_graph(op.name, case)
            rng = np.random.default_rng(seed)
            names = (item.value.name for item in graph.inputs)
            values = dict(zip(names, case.draw(rng), strict=True))
            types = ", ".join(str(operand.type) for operand in case.operands)
            yield from check_graph(
                backend, graph, values, {}, TOLERANCES[op.name], f"{op.name}({types})"
            )


def check_graph(
    backend: Backend,
    graph: Graph,
    persistent: Mapping[str, HostValue],
    inputs: Mapping[str, HostValue],
    tolerance: float,
    subject: str = "",
) -> Iterator[Finding]:
    """Compare the outputs of one graph."""
    wanted = evaluate(graph, {**persistent, **inputs})
    given = run_graph(backend, graph, persistent, inputs)
    for name, value in wanted.items():
        yield Finding(f"{subject} %{name}".strip(), relative_error(given[name], value), tolerance)


def run_graph(
    backend: Backend,
    graph: Graph,
    persistent: Mapping[str, HostValue],
    inputs: Mapping[str, HostValue],
) -> dict[str, HostValue]:
    """All outputs of a graph that is run once, those too that took the place of an input."""
    backend.load(persistent)
    arrays = {name: value for name, value in inputs.items() if isinstance(value, np.ndarray)}
    given: dict[str, HostValue] = dict(backend.compile(graph).run(arrays))
    return given | {alias.output: backend.read(alias.donated) for alias in graph.aliases}
