"""Pipelines of passes as text: ``lora{rank=8},grad,dce``."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from ..graph.text import read_attr, split_attrs
from ..graph.types import GraphError
from .accumulate import Accumulate
from .checkpoint.checkpoint import Checkpoint
from .checkpoint.costs import CostTable, read_table
from .cleanup import EliminateDeadCode, MergeCommonSubexpressions
from .fuse.fuse import Fuse
from .grad import Grad
from .lora import Lora
from .manager import Pass
from .masters import Masters
from .optimizer import AdamW, Sgd
from .surrogate import Promote, Surrogate

PASSES: dict[str, type[Any]] = {
    kind.name: kind
    for kind in (
        Lora,
        Masters,
        Surrogate,
        Promote,
        Grad,
        Accumulate,
        AdamW,
        Sgd,
        MergeCommonSubexpressions,
        EliminateDeadCode,
        Checkpoint,
        Fuse,
    )
}

_STEP = re.compile(r"\s*(\w+)(?:\{([^}]*)\})?\s*(?:,|$)")


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """Passes from their text.

    Options stand in braces, ``lora{rank=8, targets="q_proj,v_proj"}``; a list of names is one
    string with commas. Where an option is text, a word needs no quotes: ``grad{loss=total}``,
    ``checkpoint{budget=64MiB}``. A table of costs is named by its file.

    Raises:
        GraphError: unknown pass or option, a value of the wrong type, or text that does not parse.
    """
    steps: list[Pass] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            raise GraphError(f"'{text[position:]}' is not a list of passes such as lora{{rank=8}}")
        steps.append(_make(match[1], match[2] or ""))
        position = match.end()
    return tuple(steps)


def _make(name: str, options: str) -> Pass:
    if name not in PASSES:
        raise GraphError(f"there is no pass named '{name}'; there are {', '.join(PASSES)}")
    fields = {f.name: f for f in dataclasses.fields(PASSES[name])}
    given: dict[str, object] = {}
    for key, value in split_attrs(options).items():
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise GraphError(f"the pass {name} has no option '{key}'; its options: {known}")
        given[key] = _convert(name, key, value, fields[key].default)
    step: Pass = PASSES[name](**given)
    return step


def _convert(name: str, key: str, text: str, default: object) -> object:
    """An option's text as a value of its default's type."""
    is_word = isinstance(default, str | tuple | CostTable) and not text.startswith('"')
    value = text if is_word else read_attr(text)
    if isinstance(default, tuple) and isinstance(value, str):
        return tuple(part for part in value.split(",") if part)
    if isinstance(default, CostTable) and isinstance(value, str):
        return read_table(Path(value))
    if isinstance(default, float) and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) is not type(default):
        raise GraphError(f"the pass {name}: {key} is {value!r}, not a {type(default).__name__}")
    return value
