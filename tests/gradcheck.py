"""Numerical gradient checks in float64, of one op or of a whole graph.

The cotangents are random: with all ones, a softmax gradient that is three times too large passes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role, Value
from bitgraph.graph.ops import infer_types
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue, Quantized, Ternary
from bitgraph.graph.types import DType, TensorType
from bitgraph.graph.verify import verify
from bitgraph.passes.grad import Grad
from bitgraph.passes.manager import PassManager
from bitgraph.passes.surrogate import Promote, Surrogate

Values: TypeAlias = Mapping[str, HostValue]
Floats: TypeAlias = npt.NDArray[np.float64]

TOLERANCE = 1e-6
"""Largest error of a gradient, relative to its size."""

STEP = 2.0**-17
"""Distance of the points of a difference quotient, relative to a direction."""

EXHAUSTIVE = 150
"""Elements up to which every one is checked alone; larger operands get random directions."""

DIRECTIONS = 3

FIXED_OPERANDS = {("rope", "table")}
"""Float operands that have no gradient by design: they are never trained."""


def check_op(op: OpDef, case: Case, seed: int = 0, results: Sequence[int] | None = None) -> None:
    """Compare an op's vjp with difference quotients, for every operand that has a gradient.

    An op on a ternary matrix is checked twice: with frozen codes, and with the floats behind them.

    Args:
        op: one that is registered.
        case: its operands.
        seed: of the operands, the cotangents and the directions.
        results: those that a cotangent reaches; all of them if None.

    Raises:
        AssertionError: they differ.
    """
    has_ternary = any(operand.type.dtype is DType.T2 for operand in case.operands)
    for masters in (False, True) if has_ternary else (False,):
        rng = np.random.default_rng(seed)
        graph = differentiable_graph(op, case, results, masters)
        operands = {f"x{k}": value for k, value in enumerate(case.draw(rng))}
        drawn = {name: _as_double(value, masters) for name, value in operands.items()}
        for item in graph.inputs:
            if item.value.name.startswith("weight."):
                drawn[item.value.name] = rng.standard_normal(item.value.type.shape)
        check_graph(graph, drawn, rng)


def check_graph(
    graph: Graph, values: Values, rng: np.random.Generator, exhaustive: int = EXHAUSTIVE
) -> dict[str, Floats]:
    """Compare the gradients of a graph's params with difference quotients of its loss.

    Args:
        graph: in float64 throughout, with a scalar output named loss.
        values: one for each input.
        rng: draws the directions.
        exhaustive: elements up to which a param is checked along every axis.

    Returns:
        The gradients, by the params' names.

    Raises:
        AssertionError: they differ.
    """
    joint = Grad()(graph)
    verify(joint)
    results = evaluate(joint, values)
    gradients = {}
    for param in graph.inputs_of(Role.PARAM):
        gradient = np.asarray(results[f"{param.name}.grad"])
        assert gradient.shape == param.type.shape
        gradients[param.name] = gradient

        def loss(moved: Floats, name: str = param.name) -> Any:
            return evaluate(graph, {**values, name: moved})["loss"]

        at = np.asarray(values[param.name])
        _compare(param, loss, at, gradient, _directions(at.shape, rng, exhaustive))
    return gradients


def differentiable_graph(
    op: OpDef, case: Case, chosen: Sequence[int] | None = None, masters: bool = False
) -> Graph:
    """``loss = sum over chosen results of <result, weight>`` for one op, smooth and in float64.

    Operands are x0, x1, ...; those that should have a gradient are params. An int8 operand is
    quantized from a float one, and the pass surrogate makes that the identity; with `masters` so is
    a ternary operand.
    """
    types = tuple(item.type for item in case.operands)
    b = GraphBuilder(op.name)
    operands = []
    for k, type in enumerate(types):
        rounded = type.dtype is DType.Q8 or (masters and type.dtype is DType.T2)
        role = Role.PARAM if rounded or is_trainable(op, k, type) else Role.INPUT
        plain = type.with_dtype(DType.F32) if rounded else type
        operands.append(b.add_input(f"x{k}", plain, role))
    weights = [
        b.add_input(f"weight.{k}", type, Role.INPUT)
        for k, type in enumerate(infer_types(op.name, types, case.attrs))
    ]
    arguments = [
        value
        if value.type == type
        else b.op("quantize" if type.dtype is DType.Q8 else "ternarize", value)
        for value, type in zip(operands, types, strict=True)
    ]
    attrs: dict[str, Any] = case.attrs
    results = b.ops(op.name, *arguments, **attrs)
    chosen = range(len(results)) if chosen is None else chosen
    total = reduce(partial(b.op, "add"), [b.op("dot", results[k], weights[k]) for k in chosen])
    loss = b.op("scale", total, factor=1.0, name="loss")
    return PassManager([Surrogate(), Promote()]).run(b.finish((loss,)))


def is_trainable(op: OpDef, position: int, type: TensorType) -> bool:
    """Whether an operand of floats must have a gradient."""
    name = op.operands[0] if op.is_variadic else op.operands[position]
    return (op.name, name) not in FIXED_OPERANDS and type.dtype.is_float


def _as_double(value: HostValue, masters: bool) -> HostValue:
    if isinstance(value, Ternary) and masters:
        return value.dense(np.float64) * value.scale
    if isinstance(value, Quantized):
        return value.dense(np.float64)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(np.float64)
    return value


def _compare(
    param: Value,
    loss: Callable[[Floats], Any],
    at: Floats,
    gradient: Floats,
    directions: Iterator[Floats],
) -> None:
    pairs = [(float(np.vdot(gradient, d)), _slope(loss, at, d)) for d in directions]
    stated, measured = np.array(pairs).T
    error = float(np.linalg.norm(stated - measured))
    # digits that the quotient itself loses: the loss's last bits over the distance
    last_bit = np.finfo(np.float64).eps * max(abs(float(loss(at))), 1.0)
    noise = 8 * last_bit / STEP * np.sqrt(len(pairs))
    allowed = TOLERANCE * float(np.linalg.norm(measured)) + noise
    assert error <= allowed, (
        f"the gradient of {param} is off by {error:.2e}, {allowed:.2e} is allowed; "
        f"stated {stated[:4]}, measured {measured[:4]}"
    )


def _slope(loss: Callable[[Floats], Any], at: Floats, direction: Floats) -> float:
    """Central difference of fourth order: exact for polynomials up to degree four."""
    near = float(loss(at + STEP * direction)) - float(loss(at - STEP * direction))
    far = float(loss(at + 2 * STEP * direction)) - float(loss(at - 2 * STEP * direction))
    return (8 * near - far) / (12 * STEP)


def _directions(
    shape: tuple[int, ...], rng: np.random.Generator, exhaustive: int
) -> Iterator[Floats]:
    """Every axis of a small operand, and some random directions of a large one."""
    size = int(np.prod(shape))
    if size <= exhaustive:
        for row in np.eye(size):
            yield row.reshape(shape)
    else:
        for _ in range(DIRECTIONS):
            yield rng.standard_normal(shape)
