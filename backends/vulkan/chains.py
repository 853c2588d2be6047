r"""Generated kernels: chains of element-wise and row-wise ops in one pass over their operands.

The name of such a kernel is its program, so equal chains share a kernel, and whoever reads a
schedule needs nothing else::

    chain_mmv__add_0_1__rms_norm_3_2__quantize_4__3_5

takes two tensors and a vector as long as a row (``mmv``, numbered 0 to 2), makes 3 = add(0, 1),
4 = rms_norm(3, 2), 5 = quantize(4), and gives 3 and 5. An ``s`` is a scalar. Attributes of the ops
are specialization constants: EPS_4 is the ``eps`` of step 4.

`chain_source.py` writes their GLSL.
"""

import re
from dataclasses import dataclass, replace
from functools import cache, cached_property

from ...graph.errors import BitgraphError

PREFIX = "chain_"

TENSOR, VECTOR, SCALAR = "m", "v", "s"
"""Letters of operands: a tensor of the chain's shape, a vector as long as a row, a number."""

ELEMENTWISE = frozenset(
    {"add", "sub", "mul", "scale", "mul_scalar", "full_like"}
    | {"relu", "squared_relu", "silu", "silu_slope"}
)

ROW_WISE = frozenset({"rms_norm", "rms_norm_grad", "quantize"})
"""Ops that reduce each row before they give it."""

PANELS = "panels"
"""What is not an op: the codes of a quantized value once more, in panels (lowering/panels.py)."""

ATTRIBUTES = {
    "scale": ("factor",),
    "full_like": ("value",),
    "rms_norm": ("eps",),
    "rms_norm_grad": ("eps",),
}
"""Attributes that become specialization constants."""

_STEP = re.compile(r"([a-z][a-z_]*?)((?:_\d+)+)")


@dataclass(frozen=True)
class Step:
    """One op of a chain, on values given by their numbers."""

    op: str
    operands: tuple[int, ...]


@dataclass(frozen=True)
class Chain:
    """A program of a generated kernel.

    Attributes:
        operands: a letter for each.
        steps: in order; their numbers follow those of the operands.
        results: numbers of the values that are written.
    """

    operands: str
    steps: tuple[Step, ...]
    results: tuple[int, ...]

    @property
    def name(self) -> str:
        """The kernel's name."""
        steps = (f"{step.op}_{'_'.join(map(str, step.operands))}" for step in self.steps)
        return "__".join((PREFIX + self.operands, *steps, "_".join(map(str, self.results))))

    @cached_property
    def numbered(self) -> dict[int, Step]:
        """Steps by number."""
        return dict(enumerate(self.steps, len(self.operands)))

    @property
    def is_row_wise(self) -> bool:
        """Whether a workgroup treats a row."""
        return any(step.op in ROW_WISE for step in self.steps)

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the specialization constants that hold attributes, in order."""
        return tuple(
            constant_of(name, number)
            for number, step in self.numbered.items()
            for name in ATTRIBUTES.get(step.op, ())
        )

    def with_panels(self, number: int) -> "Chain":
        """The chain that gives the codes of a quantized value in panels too, as its last result."""
        steps = (*self.steps, Step(PANELS, (number,)))
        return replace(self, steps=steps, results=(*self.results, max(self.numbered) + 1))


def constant_of(attribute: str, number: int) -> str:
    """The specialization constant that holds an attribute of a step."""
    return f"{attribute.upper()}_{number}"


def is_chain(name: str) -> bool:
    """Whether a kernel of this name is generated."""
    return name.startswith(PREFIX)


@cache
def parse_chain(name: str) -> Chain:
    """Inverse of `Chain.name`.

    Raises:
        BitgraphError: the name is no program.
    """
    if not re.fullmatch(rf"{PREFIX}[mvs]+(__[a-z_]+(_\d+)+)+__\d+(_\d+)*", name):
        raise BitgraphError(f"'{name}' is no name of a generated kernel")
    letters, *middle, last = name.removeprefix(PREFIX).split("__")
    steps: list[Step] = []
    for number, text in enumerate(middle, len(letters)):
        match = _STEP.fullmatch(text)
        if match is None or match[1] not in ELEMENTWISE | ROW_WISE | {PANELS}:
            raise BitgraphError(f"'{text}' is no step of a generated kernel in {name}")
        operands = tuple(int(part) for part in match[2].split("_")[1:])
        if any(operand >= number for operand in operands):
            raise BitgraphError(f"'{text}' reads what is not there yet in {name}")
        steps.append(Step(match[1], operands))
    return Chain(letters, tuple(steps), tuple(map(int, last.split("_"))))
