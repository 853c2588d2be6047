r"""Kernels: what the head of a shader file says about it.

A shader opens with a comment that names the kernel, says what it computes, and lists its bindings
with types whose sizes are whole numbers or specialization constants::

    // rms_norm: y = weight x / sqrt(mean(x^2) + eps), one workgroup a row.
    //
    // Reference: op rms_norm.
    // Bindings:
    //   0 read  x      f32[ROWS,COLUMNS]
    //   1 read  weight f32[COLUMNS]
    //   2 write y      f32[ROWS,COLUMNS]

This is the one place where they are written down: the lowering, the schedule runner and the
recorder all read it. A file may hold several kernels (`variants.py`); those of fused nodes may be
generated from their names (`chain_source.py`), heads included.

A kernel that works element by element can write its result over an operand, and says so behind the
result's type::

    //   2 write c f32[COUNT] over a or b

It promises that an invocation reads all it needs of an element of `a` and `b` before it writes that
element of `c`, and that no other invocation reads it. Then both may be bound to the same bytes,
where they are bound to exactly the same.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ...graph.errors import BitgraphError
from ...graph.types import DType, TensorType
from .chain_source import chain_source
from .chains import is_chain
from .schedule import Access
from .variants import base_of, variant

SUFFIX = ".comp"

_BINDING = re.compile(
    r"//\s+(\d+)\s+(read|write|update)\s+(\w+)\s+(\w+)\[([^\]]*)\](?: over (\w+(?: or \w+)*))?"
)
_CONSTANT = re.compile(r"layout\(constant_id = (\d+)\) const (\w+) (\w+)")


@dataclass(frozen=True)
class Parameter:
    """One binding of a kernel.

    Attributes:
        name: of the operand, as the lowering calls it.
        access: what the kernel does with it.
        dtype: of its elements.
        shape: sizes, as numbers or names of specialization constants.
        over: operands whose bytes it may be written over, each element after it was read.
    """

    name: str
    access: Access
    dtype: DType
    shape: tuple[int | str, ...]
    over: tuple[str, ...] = ()

    def type(self, constants: Mapping[str, int | float]) -> TensorType:
        """The type under given specialization constants."""
        shape = (size if isinstance(size, int) else constants[size] for size in self.shape)
        return TensorType(self.dtype, tuple(int(size) for size in shape))


@dataclass(frozen=True)
class Kernel:
    """A shader's interface.

    Attributes:
        name: of the file, without its suffix, and the options of the variant.
        parameters: by binding number.
        constants: names of the specialization constants, by their ids.
    """

    name: str
    parameters: tuple[Parameter, ...]
    constants: tuple[str, ...]


@cache
def kernel(name: str) -> Kernel:
    """The interface of a shader.

    Raises:
        BitgraphError: there is no such shader, or its head is not as described above.
    """
    source = shader_source(name)
    parameters: list[Parameter] = []
    for number, access, operand, dtype, shape, over in _BINDING.findall(source):
        if int(number) != len(parameters):
            raise BitgraphError(f"{name}{SUFFIX}: binding {number} is out of order")
        sizes = tuple(
            int(size) if size.strip().isdigit() else size.strip()
            for size in shape.split(",")
            if size.strip()
        )
        covered = tuple(over.split(" or ")) if over else ()
        parameters.append(Parameter(operand, Access(access), DType(dtype), sizes, covered))
    if not parameters:
        raise BitgraphError(f"{name}{SUFFIX} does not list its bindings at its head")
    _check_over(name, parameters)
    constants = {int(k): constant for k, _, constant in _CONSTANT.findall(source)}
    return Kernel(name, tuple(parameters), tuple(constants[k] for k in sorted(constants)))


def _check_over(name: str, parameters: list[Parameter]) -> None:
    """Refuse a promise about operands that are not there, not read, or of another type."""
    read = {p.name: (p.dtype, p.shape) for p in parameters if p.access is Access.READ}
    for parameter in parameters:
        wanted = (parameter.dtype, parameter.shape)
        for operand in parameter.over:
            if parameter.access is not Access.WRITE or read.get(operand) != wanted:
                raise BitgraphError(
                    f"{name}{SUFFIX}: {parameter.name} cannot be written over {operand}, which is "
                    "not an operand of its type that is only read"
                )


def shader_source(name: str) -> str:
    """The text of a shader: generated, or the variant of a file that its name asks for.

    Raises:
        BitgraphError: there is no such shader.
    """
    if is_chain(name):
        return chain_source(name)
    path = files("bitgraph.shaders").joinpath(f"{base_of(name)}{SUFFIX}")
    if not path.is_file():
        raise BitgraphError(f"there is no shader named '{name}'")
    return variant(path.read_text(), name)


def all_kernels() -> tuple[str, ...]:
    """Names of all shaders in the package."""
    names = (path.name for path in files("bitgraph.shaders").iterdir())
    return tuple(sorted(n.removesuffix(SUFFIX) for n in names if n.endswith(SUFFIX)))
