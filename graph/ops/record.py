"""What an op is: one record that says its types, its meaning, its gradient and its test cases."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..ir import Node, Value
from ..tensors import HostValue
from ..types import TensorType

if TYPE_CHECKING:
    from ..build import GraphBuilder

Infer: TypeAlias = Callable[..., TensorType | tuple[TensorType, ...]]
Eval: TypeAlias = Callable[..., HostValue | tuple[HostValue, ...]]
Cotangents: TypeAlias = tuple[Value | None, ...]
Vjp: TypeAlias = Callable[..., Cotangents]
Surrogate: TypeAlias = Callable[["GraphBuilder", Node], tuple[Value, ...]]
Draw: TypeAlias = Callable[[np.random.Generator, TensorType], HostValue]


@dataclass(frozen=True)
class Operand:
    """An input of a test case: its type and how to draw it."""

    type: TensorType
    draw: Draw


@dataclass(frozen=True)
class Case:
    """One concrete application of an op, to be run, differentiated and timed."""

    operands: tuple[Operand, ...]
    attrs: dict[str, Any] = field(default_factory=dict)

    def draw(self, rng: np.random.Generator) -> tuple[HostValue, ...]:
        """Host values for the operands."""
        return tuple(operand.draw(rng, operand.type) for operand in self.operands)


@dataclass(frozen=True)
class Cases:
    """The cases of an op, all made by one function of a few sizes.

    Attributes:
        make: sizes -> Case.
        ranges: smallest and largest value of each size, for random shapes.
        fixed: sizes that are always tried: the smallest, odd ones, and ones that a model has.
    """

    make: Callable[..., Case]
    ranges: tuple[tuple[int, int], ...]
    fixed: tuple[tuple[int, ...], ...]

    def all(self) -> tuple[Case, ...]:
        """The fixed cases."""
        return tuple(self.make(*sizes) for sizes in self.fixed)


@dataclass(frozen=True)
class Split:
    """How an op falls apart: slices of the inputs give the matching slices of the outputs.

    Attributes:
        inputs: for each operand the axis it is cut along, None where every slice needs all of it.
        outputs: for each result the axis along which the slices are laid together.
    """

    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]


def by_rows(*inputs: int, of: int, outputs: int = 1) -> Split:
    """Row r of each output depends on row r of the given inputs, and on all of the others.

    Args:
        *inputs: indices of the operands that are cut along axis 0.
        of: number of operands.
        outputs: number of results.
    """
    return Split(tuple(0 if k in inputs else None for k in range(of)), (0,) * outputs)


@dataclass(frozen=True)
class OpDef:
    """The record of an op.

    Attributes:
        name: as it stands in the text form.
        infer: result types from operand types; keyword-only parameters are the op's attributes.
            It raises the error a user reads when shapes do not fit.
        eval: what the op means, in NumPy, with the same parameters as `infer`. It computes in the
            element type of its operands, so that float64 inputs give float64 results.
        cases: shapes and attributes that drive every test of the op.
        vjp: called as ``vjp(builder, node, *cotangents)``, emits nodes for the cotangents of the
            operands, given those of the results. An op with several results gets None for those
            that no gradient reaches, never for all of them. None for an operand means that the op
            has no gradient for it.
        no_vjp: why there is no `vjp`.
        surrogate: the differentiable stand-in of a step function.
        split: how the op may be run in parallel slices.
        view: whether the result is the operand's bytes under another type, so that it needs none.
    """

    name: str
    infer: Infer
    eval: Eval
    cases: Cases
    vjp: Vjp | None = None
    no_vjp: str = ""
    surrogate: Surrogate | None = None
    split: Split | None = None
    view: bool = False

    def __post_init__(self) -> None:
        if (self.vjp is None) == (not self.no_vjp):
            raise ValueError(f"{self.name} needs either a vjp or the reason why it has none")

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of the operands; one that stands for any number of them begins with ``*``."""
        kinds = inspect.Parameter
        return tuple(
            f"*{p.name}" if p.kind is kinds.VAR_POSITIONAL else p.name
            for p in inspect.signature(self.infer).parameters.values()
            if p.kind is not kinds.KEYWORD_ONLY
        )

    @cached_property
    def attributes(self) -> dict[str, object]:
        """Names and types of the attributes."""
        return {
            p.name: p.annotation
            for p in inspect.signature(self.infer, eval_str=True).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }

    @property
    def is_variadic(self) -> bool:
        """Whether the op takes any number of operands."""
        return any(name.startswith("*") for name in self.operands)
