"""An op and the nodes of its VJP, run on symbols."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..build import GraphBuilder
from ..ir import Node, Role, Value
from ..ops import op_def
from ..ops.record import Case, OpDef
from ..tensors import HostValue, Quantized, Ternary
from ..types import DType, TensorType
from .arrays import SymbolArray, as_symbols
from .operands import Signs, symbolic, variables

Choices: TypeAlias = Sequence[tuple[int, ...]]
"""Sets of results, by their indices."""


@dataclass(frozen=True)
class Vjp:
    """What a VJP gives.

    Attributes:
        reached: indices of the results that a cotangent reaches.
        gradients: for each operand, None where it has no gradient.
    """

    reached: tuple[int, ...]
    gradients: tuple[SymbolArray | None, ...]


@dataclass(frozen=True)
class Trace:
    """An op and its VJP as expressions.

    Attributes:
        operands: the variables of each operand.
        results: expressions of the variables.
        cotangents: symbols, one for each element of the results.
        vjps: expressions of the variables and the cotangents, one for each set of results
            that was asked for.
    """

    operands: tuple[SymbolArray, ...]
    results: tuple[SymbolArray, ...]
    cotangents: tuple[SymbolArray, ...]
    vjps: tuple[Vjp, ...]


def trace(
    op: OpDef, case: Case, drawn: Sequence[HostValue], choices: Choices, signs: Signs
) -> Trace:
    """Run an op and its VJP.

    Args:
        op: a differentiable one.
        case: shapes and attributes.
        drawn: values of the case, taken for operands of whole numbers.
        choices: sets of results that a cotangent reaches, one for each run of the VJP.
        signs: those of variables, where they matter.

    Raises:
        UnknownSignError: the sign of one more variable matters.
    """
    b = GraphBuilder(op.name)
    given = [b.add_input(f"x{k}", o.type, Role.INPUT) for k, o in enumerate(case.operands)]
    results = b.ops(op.name, *given, **case.attrs)
    operands = tuple(variables(v.name, v.type.shape, signs) for v in given)
    values: dict[str, HostValue] = {
        v.name: symbolic(v.type, of, number)
        for v, of, number in zip(given, operands, drawn, strict=True)
    }
    _forward(b.nodes[0], values)
    seeds = tuple(b.add_input(f"dy{k}", _float(v), Role.INPUT) for k, v in enumerate(results))
    cotangents = tuple(variables(v.name, v.type.shape) for v in seeds)
    values.update(zip((v.name for v in seeds), cotangents, strict=True))
    vjps = tuple(_vjp(op, b, seeds, reached, values) for reached in choices)
    return Trace(operands, tuple(_plain(values[v.name]) for v in results), cotangents, vjps)


def _forward(node: Node, values: dict[str, HostValue]) -> None:
    """Run an op, or the surrogate of a step function."""
    surrogate = op_def(node.op).surrogate
    if surrogate is None:
        _run(node, values)
        return
    inner = GraphBuilder(node.op)
    for value in node.inputs:
        inner.add_input(value.name, value.type, Role.INPUT)
    smooth = surrogate(inner, node)
    for step in inner.nodes:
        _run(step, values)
    values.update({v.name: values[s.name] for v, s in zip(node.outputs, smooth, strict=True)})


def _vjp(
    op: OpDef,
    b: GraphBuilder,
    seeds: Sequence[Value],
    reached: tuple[int, ...],
    values: dict[str, HostValue],
) -> Vjp:
    assert op.vjp is not None
    begin = len(b.nodes)
    given = [seed if k in reached else None for k, seed in enumerate(seeds)]
    gradients = op.vjp(b, b.nodes[0], *given)
    for node in b.nodes[begin:]:
        _run(node, values)
    return Vjp(reached, tuple(None if g is None else _plain(values[g.name]) for g in gradients))


def _run(node: Node, values: dict[str, HostValue]) -> None:
    results = op_def(node.op).eval(*(values[v.name] for v in node.inputs), **node.attributes)
    results = results if isinstance(results, tuple) else (results,)
    for value, result in zip(node.outputs, results, strict=True):
        packed = isinstance(result, Quantized | Ternary)
        values[value.name] = result if packed else as_symbols(result)


def _plain(value: HostValue) -> SymbolArray:
    """The values that int8 codes stand for, other arrays as they are."""
    return as_symbols(value.codes / value.scale if isinstance(value, Quantized) else value)


def _float(value: Value) -> TensorType:
    """The type of a cotangent."""
    dtype = value.type.dtype
    return value.type.with_dtype(dtype if dtype.is_float else DType.F32)
