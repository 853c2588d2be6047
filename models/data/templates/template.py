"""A chat template: from turns to text of which is known what the assistant says."""

import importlib.resources
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ....graph.errors import BitgraphError
from ..records import Turn
from .marks import GenerationBlock, Span, Specials

TEMPLATES = ("alpaca", "bitnet-chat")
"""Templates that come with bitgraph."""


@dataclass(frozen=True)
class Template:
    """A Jinja template.

    Attributes:
        name: of one that comes with bitgraph, or a file.
        source: its text.
        compiled: what Jinja made of it.
    """

    name: str
    source: str
    compiled: jinja2.Template


def load_template(name: str) -> Template:
    """One of `TEMPLATES`, or the Jinja file of that name.

    Raises:
        BitgraphError: there is no such file, or it is not a Jinja template.
    """
    if name in TEMPLATES:
        file = importlib.resources.files(__package__) / f"{name}.jinja"
        return parse_template(name, file.read_text(encoding="utf-8"))
    try:
        return parse_template(name, Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        known = ", ".join(TEMPLATES)
        raise BitgraphError(
            f"the template {name} cannot be read ({reason}); give one of {known}, or a Jinja file"
        ) from error
    except UnicodeDecodeError as error:
        raise BitgraphError(
            f"the template {name} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error


def parse_template(name: str, source: str) -> Template:
    """A template from its text.

    It sees what those of Hugging Face see: `messages` (with `role` and `content`; those of Alpaca
    records also with `instruction` and `input`), `bos_token`, `eos_token`, `add_generation_prompt`,
    `raise_exception`. `eot_token` ends a turn. It runs in a sandbox.

    Raises:
        BitgraphError: it is not a Jinja template.
    """
    try:
        return Template(name, source, _environment().from_string(source))
    except jinja2.TemplateSyntaxError as error:
        raise BitgraphError(
            f"the template {name} is wrong in line {error.lineno} ({_one_line(error.message)}); "
            "mend it"
        ) from error


def render(
    template: Template, turns: Sequence[Turn], specials: Specials, to_be_continued: bool = False
) -> list[Span]:
    """What a conversation becomes.

    Args:
        template: as loaded.
        turns: of the conversation.
        specials: of the vocabulary.
        to_be_continued: end with what stands before the assistant's next words.

    Raises:
        BitgraphError: the template fails; the sentence names it and the line.
    """
    try:
        rendered = template.compiled.render(
            messages=[_message(turn, specials) for turn in turns],
            bos_token=specials.bos,
            eos_token=specials.eos,
            eot_token=specials.eot,
            add_generation_prompt=to_be_continued,
            raise_exception=_raise_exception,
            tools=None,
            documents=None,
        )
        return [*specials.split(rendered)]
    except Exception as error:  # a template can raise whatever Python can
        line = _line_of(error)
        reason = _one_line(str(error)) or type(error).__name__
        raise BitgraphError(
            f"the template {template.name} fails{line} ({reason}); mend it or the record"
        ) from error


class _Undefined(jinja2.Undefined):
    """May be tested, as templates do with what they may be given, but never becomes text."""

    __str__ = jinja2.Undefined._fail_with_undefined_error


def _environment() -> jinja2.Environment:
    """Jinja as Hugging Face's templates expect it."""
    return ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=_Undefined,
        extensions=[GenerationBlock, "jinja2.ext.loopcontrols"],
    )


def _message(turn: Turn, specials: Specials) -> dict[str, str]:
    instruction, context = specials.guard(turn.content), specials.guard(turn.input)
    content = f"{instruction}\n\n{context}" if context else instruction
    return {
        "role": turn.role,
        "content": content,
        "instruction": instruction,
        "input": context,
    }


def _raise_exception(message: str) -> NoReturn:
    raise ValueError(message)


def _line_of(error: Exception) -> str:
    """Where in a template an error was raised, as Jinja notes it in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename in ("<template>", "<unknown>")]
    return f" in line {lines[-1]}" if lines else ""


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
