"""Rules of fused nodes that generated kernels serve, and what those kernels mean."""

from collections.abc import Mapping

from ....graph.ir import Node, Value
from ....graph.ops import op_def
from ....graph.ops.fused import expanded
from ....graph.tensors import HostValue, Quantized
from ....graph.types import DType
from ....passes.fuse.patterns import ELEMENTWISE, ROW_PATTERNS
from ..chains import (
    ATTRIBUTES,
    PANELS,
    SCALAR,
    TENSOR,
    VECTOR,
    Chain,
    Step,
    constant_of,
    parse_chain,
)
from ..layout import assign
from . import panels
from .calls import (
    Lowering,
    Meaning,
    Part,
    Rule,
    fused_rule,
    groups_for,
    reducing_workgroup,
    runs_of,
)
from .copies import flat_groups

_MOST_CHUNKS = 32
"""Quadruples of a row that an invocation may keep of each value."""


def _flat(lowering: Lowering, node: Node) -> None:
    """Runs of elements, one dispatch for each."""
    if _takes_a_place(lowering, node):
        lowering.lower_apart(node)
        return
    chain, attributes = chain_of(node)
    tensors = _tensors(chain, node)
    scalars = {f"v{k}": v for k, v in enumerate(node.inputs) if chain.operands[k] == SCALAR}
    for count, parts in runs_of(lowering.limits, *tensors.values()):
        operands: dict[str, Value | Part] = {**scalars, **dict(zip(tensors, parts, strict=True))}
        constants = {"COUNT": count, **attributes}
        lowering.call(chain.name, flat_groups(lowering, count), constants, **operands)


def _rows(lowering: Lowering, node: Node) -> None:
    """A workgroup a row, unless rows are too wide for the registers of one."""
    chain, attributes = chain_of(node)
    rows, columns = node.outputs[-1].type.shape
    workgroup = reducing_workgroup(-(-columns // 4), lowering.limits)
    too_wide = -(-columns // (4 * workgroup)) > _MOST_CHUNKS
    if too_wide or _takes_a_place(lowering, node):
        lowering.lower_apart(node)
        return
    constants = {"ROWS": rows, "COLUMNS": columns, "WORKGROUP": workgroup, **attributes}
    operands = {f"v{k}": value for k, value in enumerate(node.inputs)}
    operands |= {f"v{k}": v for k, v in zip(chain.results, node.outputs, strict=True)}
    for number, value in zip(chain.results, node.outputs, strict=True):
        room = len(operands) < lowering.limits.bindings
        if value.type.dtype is DType.Q8 and room and panels.wanted(lowering, value):
            chain = chain.with_panels(number)
            made = operands[f"v{chain.results[-1]}"] = panels.room_for_codes(lowering, value)
            constants["HIGH"], constants["SIXTEENTHS"], _ = made.type.shape
    lowering.call(chain.name, groups_for(rows, 1, lowering.limits), constants, **operands)


def _takes_a_place(lowering: Lowering, node: Node) -> bool:
    """Whether a result is written over an input of the graph, which the chain may still read."""
    return any(value.name in lowering.donors for value in node.outputs)


def _tensors(chain: Chain, node: Node) -> dict[str, Value]:
    """Operands and results that have the chain's shape, by their names in the kernel."""
    read = {f"v{k}": v for k, v in enumerate(node.inputs) if chain.operands[k] == TENSOR}
    return read | {f"v{k}": v for k, v in zip(chain.results, node.outputs, strict=True)}


def chain_of(node: Node) -> tuple[Chain, dict[str, float]]:
    """The chain that computes a fused node, and the constants that hold its attributes."""
    numbers = {value.name: k for k, value in enumerate(node.inputs)}
    steps: list[Step] = []
    constants: dict[str, float] = {}
    for part in expanded(node):
        number = len(node.inputs) + len(steps)
        for name in ATTRIBUTES.get(part.op, ()):
            constants[constant_of(name, number)] = part.attributes[name]
        steps.append(Step(part.op, tuple(numbers[value.name] for value in part.inputs)))
        numbers[part.outputs[0].name] = number
    letters = "".join(_letter(value, node.outputs[-1]) for value in node.inputs)
    results = tuple(numbers[value.name] for value in node.outputs)
    return Chain(letters, tuple(steps), results), constants


def _letter(operand: Value, like: Value) -> str:
    if operand.type.shape == like.type.shape:
        return TENSOR
    return VECTOR if operand.type.shape else SCALAR


def chain_meaning(name: str) -> Meaning:
    """What a generated kernel does: its steps, one after the other."""
    chain = parse_chain(name)

    def meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
        values = {k: operands[f"v{k}"] for k in range(len(chain.operands))}
        for number, step in chain.numbered.items():
            if step.op == PANELS:
                (codes,) = (values[k] for k in step.operands)
                assert isinstance(codes, Quantized)
                values[number] = panels.in_panels(codes, int(constants["HIGH"]))
                continue
            attrs = {a: constants[constant_of(a, number)] for a in ATTRIBUTES.get(step.op, ())}
            result = op_def(step.op).eval(*(values[k] for k in step.operands), **attrs)
            assert not isinstance(result, tuple)
            values[number] = result
        for number in chain.results:
            assign(operands[f"v{number}"], values[number])

    return meaning


RULES: dict[str, Rule] = {
    fused_rule(ELEMENTWISE.name): _flat,
    **{fused_rule(pattern.name): _rows for pattern in ROW_PATTERNS},
}
MEANINGS: dict[str, Meaning] = {}
