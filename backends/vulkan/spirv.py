"""What a compiled shader says about itself: its constants, bindings and workgroup size.

Read from the SPIR-V (specification 1.6, section 2.3 "Physical Layout of a SPIR-V Module"), which
has seen the includes and conditions that the source text leaves open.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from .errors import DeviceError

MAGIC = 0x07230203

_NAME, _ENTRY_POINT, _EXECUTION_MODE, _EXECUTION_MODE_ID = 5, 15, 16, 331
_TYPE_BOOL, _TYPE_INT, _TYPE_FLOAT, _TYPE_POINTER = 20, 21, 22, 32
_CONSTANT, _COMPOSITE = 43, 44
_SPEC_TRUE, _SPEC_FALSE, _SPEC, _SPEC_COMPOSITE = 48, 49, 50, 51
_CONSTANTS = (_CONSTANT, _COMPOSITE, _SPEC_TRUE, _SPEC_FALSE, _SPEC, _SPEC_COMPOSITE)
_VARIABLE, _DECORATE, _MEMBER_DECORATE, _TYPE_STRUCT = 59, 71, 72, 30
_SPEC_ID, _BUILTIN, _NON_WRITABLE, _NON_READABLE, _BINDING = 1, 11, 24, 25, 33
_LOCAL_SIZE, _LOCAL_SIZE_ID, _WORKGROUP_SIZE = 17, 38, 25


@dataclass(frozen=True)
class Constant:
    """A specialization constant; `kind` is bool, int, uint or float, all of 32 bits."""

    name: str
    number: int
    kind: str
    default: bool | int | float


@dataclass(frozen=True)
class BufferInterface:
    """A storage buffer; `name` is that of its block."""

    name: str
    number: int
    readable: bool
    writable: bool


@dataclass(frozen=True)
class ShaderInterface:
    """What a kernel takes.

    Attributes:
        constants: by name, in the order of their numbers.
        bindings: in the order of their numbers, which count from 0 without gaps.
        local_size: of the workgroup in x, y, z: a number, or the number of a constant and its
            default.
    """

    constants: Mapping[str, Constant]
    bindings: tuple[BufferInterface, ...]
    local_size: tuple[int | tuple[int, int], ...]

    def workgroup(self, values: Mapping[str, bool | int | float]) -> tuple[int, int, int]:
        """The workgroup's size with these specialization constants."""
        chosen = {c.number: int(values.get(n, c.default)) for n, c in self.constants.items()}
        x, y, z = (s if isinstance(s, int) else chosen.get(*s) for s in self.local_size)
        return x, y, z


@dataclass
class _Module:
    """The instructions that matter, by the id that they are about."""

    names: dict[int, str] = field(default_factory=dict)
    types: dict[int, tuple[int, list[int]]] = field(default_factory=dict)
    constants: dict[int, tuple[int, int, list[int]]] = field(default_factory=dict)
    variables: dict[int, int] = field(default_factory=dict)
    decorations: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    members: dict[int, dict[int, set[int]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    local_size: tuple[bool, list[int]] | None = None


def reflect(spirv: bytes, name: str) -> ShaderInterface:
    """Read a compute shader's interface.

    Args:
        spirv: a whole module.
        name: of the kernel, for error messages.

    Raises:
        DeviceError: the module is damaged, or uses what kernels may not: a gap in the bindings,
            a constant that is not of 32 bits.
    """
    try:
        module = _read(spirv)
        constants = sorted(_constants(module), key=lambda c: c.number)
        bindings = _bindings(module)
        local_size = _local_size(module)
    except (IndexError, KeyError, ValueError) as error:
        raise DeviceError(f"kernel {name}: its SPIR-V is damaged ({error})") from error
    if any(c.kind not in ("bool", "int", "uint", "float") for c in constants):
        raise DeviceError(f"kernel {name}: specialization constants must be of 32 bits")
    if [b.number for b in bindings] != list(range(len(bindings))):
        numbers = ", ".join(str(b.number) for b in bindings)
        raise DeviceError(f"kernel {name}: bindings must count from 0 without gaps, not {numbers}")
    named = {c.name: c for c in constants if c.name}
    return ShaderInterface(named, tuple(bindings), local_size)


def _instructions(spirv: bytes) -> Iterator[tuple[int, list[int]]]:
    words = np.frombuffer(spirv, "<u4").tolist()
    if len(words) < 5 or words[0] != MAGIC:
        raise ValueError("it does not start with the magic number")
    position = 5
    while position < len(words):
        length = words[position] >> 16
        if length == 0 or position + length > len(words):
            raise ValueError(f"an instruction at word {position} has no end")
        yield words[position] & 0xFFFF, words[position + 1 : position + length]
        position += length


def _read(spirv: bytes) -> _Module:
    module = _Module()
    for code, operands in _instructions(spirv):
        if code == _NAME:
            module.names[operands[0]] = _string(operands[1:])
        elif code in (_TYPE_BOOL, _TYPE_INT, _TYPE_FLOAT, _TYPE_POINTER, _TYPE_STRUCT):
            module.types[operands[0]] = (code, operands[1:])
        elif code in _CONSTANTS:
            module.constants[operands[1]] = (code, operands[0], operands[2:])
        elif code == _VARIABLE:
            module.variables[operands[1]] = operands[0]
        elif code == _DECORATE:
            module.decorations[operands[0]][operands[1]] = (operands[2:] or [0])[0]
        elif code == _MEMBER_DECORATE:
            module.members[operands[0]][operands[1]].add(operands[2])
        elif code in (_EXECUTION_MODE, _EXECUTION_MODE_ID) and operands[1] in (
            _LOCAL_SIZE,
            _LOCAL_SIZE_ID,
        ):
            module.local_size = (operands[1] == _LOCAL_SIZE_ID, operands[2:5])
    return module


def _constants(module: _Module) -> Iterator[Constant]:
    for identity, (code, type_id, operands) in module.constants.items():
        number = module.decorations[identity].get(_SPEC_ID)
        if number is None:
            continue
        name = module.names.get(identity, "")
        if code in (_SPEC_TRUE, _SPEC_FALSE):
            yield Constant(name, number, "bool", code == _SPEC_TRUE)
        else:
            kind = _kind(*module.types[type_id])
            as_type = {"int": "<i4", "float": "<f4"}.get(kind, "<u4")
            default = np.array(operands[:1], "<u4").view(as_type)[0].item()
            yield Constant(name, number, kind, default)


def _kind(code: int, operands: list[int]) -> str:
    if operands[0] != 32:
        return f"{operands[0]} bits"
    if code == _TYPE_FLOAT:
        return "float"
    return "int" if operands[1] else "uint"


def _bindings(module: _Module) -> list[BufferInterface]:
    """One entry a number; blocks that share one are views of the same buffer."""
    found: dict[int, BufferInterface] = {}
    for variable, pointer in module.variables.items():
        number = module.decorations[variable].get(_BINDING)
        if number is None:
            continue
        block = module.types[pointer][1][1]
        count = len(module.types[block][1])
        members = module.members[block]
        readable = not all(_NON_READABLE in members[i] for i in range(count))
        writable = not all(_NON_WRITABLE in members[i] for i in range(count))
        other = found.get(number)
        found[number] = BufferInterface(
            other.name if other else module.names.get(block, ""),
            number,
            readable or (other is not None and other.readable),
            writable or (other is not None and other.writable),
        )
    return [found[number] for number in sorted(found)]


def _local_size(module: _Module) -> tuple[int | tuple[int, int], ...]:
    """The workgroup's size: that of the built-in constant if there is one, else the mode's."""
    for identity, decorations in list(module.decorations.items()):
        if decorations.get(_BUILTIN) == _WORKGROUP_SIZE:
            return tuple(_size(module, i) for i in module.constants[identity][2])
    if module.local_size is None:
        raise ValueError("it has no workgroup size")
    by_id, values = module.local_size
    if len(values) != 3:
        raise ValueError("its workgroup size has not three parts")
    return tuple(_size(module, i) for i in values) if by_id else tuple(values)


def _size(module: _Module, identity: int) -> int | tuple[int, int]:
    value = module.constants[identity][2][0]
    number = module.decorations[identity].get(_SPEC_ID)
    return value if number is None else (number, value)


def _string(words: list[int]) -> str:
    return np.array(words, "<u4").tobytes().split(b"\0")[0].decode("utf-8", "replace")
