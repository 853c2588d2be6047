r"""Variants of a kernel: one file, with parts that a kernel's name asks for.

``ternary_matmul_cm+low+added`` is the file ternary_matmul_cm.comp with the options LOW and ADDED;
``thin_matmul+across+3`` is thin_matmul.comp with the option ACROSS for three members, and
``ternary_matvec+ahead2`` has the option AHEAD, for two. In a file

- ``#ifdef OPTION``, ``#else`` and ``#endif`` enclose what belongs to an option: bindings at the
  head, constants and code;
- ``#pragma each`` and ``#pragma end`` enclose what is repeated for each member, with its number,
  from 0 on, for ``@``; ``#pragma each ahead`` what is repeated as often as the option says;
- ``n`` stands for the next free number of a binding or of a specialization constant.

The text of a variant is plain GLSL. It defines its options and ``MEMBERS``, and ``AT_name`` for the
binding of each operand that has its number from here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

_BINDING = re.compile(r"(//\s+)n(\s+(?:read|write|update)\s+(\w+))")
_NUMBERED = re.compile(r"//\s+(?:\d+|n)\s+(?:read|write|update)\s")
_CONSTANT = re.compile(r"layout\(constant_id = (\d+|n)\)")


def base_of(kernel: str) -> str:
    """Name of the file of a kernel, without its suffix."""
    return kernel.split("+")[0]


def with_members(kernel: str, members: int) -> str:
    """Name of a kernel for so many members."""
    return kernel if members == 1 else f"{kernel}+{members}"


def variant(text: str, kernel: str) -> str:
    """The text of a kernel: that of its file with the parts that its name asks for."""
    counts = {"": 1}
    for option in kernel.split("+")[1:]:
        word = option.rstrip("0123456789")
        counts[word] = int(option.removeprefix(word) or 1)
    members, chosen = counts[""], [word.upper() for word in counts if word]
    lines = text.splitlines()
    numbered, defines = _number(_active(_repeat(lines, counts), chosen))
    if numbered == lines:
        return text
    version, *rest = numbered
    defines = [*chosen, f"MEMBERS {members}", *defines]
    return "\n".join([version, *(f"#define {define}" for define in defines), *rest]) + "\n"


def _repeat(lines: Sequence[str], counts: Mapping[str, int]) -> Iterator[str]:
    """The lines with those of each member written out."""
    block: list[str] | None = None
    count = 0
    for line in lines:
        words = line.split()
        if words[:2] == ["#pragma", "each"]:
            block, count = [], counts.get("".join(words[2:]), 0)
        elif words == ["#pragma", "end"] and block is not None:
            for member in range(count):
                yield from (inner.replace("@", str(member)) for inner in block)
            block = None
        elif block is not None:
            block.append(line)
        else:
            yield line


def _active(lines: Iterator[str], options: Sequence[str]) -> Iterator[str]:
    """The lines without those of options that are not chosen."""
    kept = [True]
    for line in lines:
        word, *rest = line.split() or [""]
        if word == "#ifdef":
            kept.append(kept[-1] and rest[0] in options)
        elif word == "#else":
            kept[-1] = kept[-2] and not kept[-1]
        elif word == "#endif":
            kept.pop()
        elif kept[-1]:
            yield line


def _number(lines: Iterator[str]) -> tuple[list[str], list[str]]:
    """The lines with numbers, and the macros that say which bindings got theirs here."""
    bindings = constants = 0
    numbered: list[str] = []
    defines: list[str] = []
    for line in lines:
        if (found := _BINDING.match(line)) is not None:
            defines.append(f"AT_{found[3]} {bindings}")
            line = f"{found[1]}{bindings}{found[2]}{line[found.end() :]}"
        if _NUMBERED.match(line):
            bindings += 1
        if (constant := _CONSTANT.match(line)) is not None:
            number = constants if constant[1] == "n" else int(constant[1])
            line = f"layout(constant_id = {number}){line[constant.end() :]}"
            constants = number + 1
        numbered.append(line)
    return numbered, defines
