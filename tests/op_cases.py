"""The cases of all ops, as parameters of tests and as graphs of one op."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from _pytest.mark.structures import ParameterSet
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue, Quantized, Ternary
from hypothesis import strategies as st


def fixed_cases(ops: Iterable[OpDef] | None = None) -> list[ParameterSet]:
    """(op, case) for every fixed case, named like ``matmul-3x5x7x1``."""
    return [
        pytest.param(op, op.cases.make(*sizes), id=f"{op.name}-{'x'.join(map(str, sizes))}")
        for op in (OPS.values() if ops is None else ops)
        for sizes in op.cases.fixed
    ]


def random_cases(op: OpDef) -> st.SearchStrategy[Case]:
    """Cases of random sizes within the op's ranges."""
    sizes = st.tuples(*(st.integers(low, high) for low, high in op.cases.ranges))
    return sizes.map(lambda drawn: op.cases.make(*drawn))


def one_op_graph(op: OpDef, case: Case, role: Role = Role.INPUT) -> Graph:
    """A graph with the inputs x0, x1, ... that applies the op once and returns every result.

    Ternary operands are always weights.
    """
    builder = GraphBuilder(op.name)
    inputs = [
        builder.add_input(f"x{k}", item.type, Role.WEIGHT if item.type.dtype == "t2" else role)
        for k, item in enumerate(case.operands)
    ]
    attrs: dict[str, Any] = case.attrs
    return builder.finish(builder.ops(op.name, *inputs, **attrs))


def draw(case: Case, seed: int = 0) -> tuple[HostValue, ...]:
    """Host values of a case's operands."""
    return case.draw(np.random.default_rng(seed))


def run(op: OpDef, operands: Iterable[HostValue], case: Case) -> tuple[Any, ...]:
    """The op's results, always as a tuple."""
    results = op.eval(*operands, **case.attrs)
    return results if isinstance(results, tuple) else (results,)


def arrays_of(value: HostValue) -> list[np.ndarray[Any, Any]]:
    """The arrays that a host value is made of."""
    if isinstance(value, Ternary):
        return [value.packed, np.asarray(value.scale)]
    if isinstance(value, Quantized):
        return [value.codes, value.scale]
    return [value]


def assert_same_bits(a: HostValue, b: HostValue) -> None:
    """Equal element types, shapes and bits."""
    for x, y in zip(arrays_of(a), arrays_of(b), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert x.tobytes() == y.tobytes()


def assert_close(a: HostValue, b: HostValue, tolerance: float, floor: float = 0.0) -> None:
    """Equal types, and a difference that is small beside the largest element or the floor."""
    for x, y in zip(arrays_of(a), arrays_of(b), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        worst = np.max(np.abs(x.astype(np.float64) - y.astype(np.float64)), initial=0.0)
        assert worst <= tolerance * np.max(np.abs(y.astype(np.float64)), initial=floor)
