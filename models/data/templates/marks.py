"""Marks inside rendered text, which no text of a person can hold.

A mark is a lone surrogate: `str` can hold it, but no valid Unicode does, and every text that is
read from a file or a command line is checked for that.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

BEGIN, END, GUARD = "\udc00", "\udc01", "\udc02"
"""What the assistant says begins; it ends; what follows is text, even if it is named like a
special token."""


class GenerationBlock(Extension):
    """`{% generation %} ... {% endgeneration %}`: what is inside, the assistant says.

    This is the block by which Hugging Face's templates tell which tokens to train.
    """

    tags = {"generation"}  # noqa: RUF012 (declared so by the base class)

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's contents between two marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)

        def mark(name: str) -> nodes.Output:
            return nodes.Output([nodes.TemplateData(name)], lineno=line)

        return nodes.Scope([mark(BEGIN), *body, mark(END)], lineno=line)


@dataclass(frozen=True)
class Span:
    """A run of rendered text.

    Attributes:
        text: without marks, not empty.
        said: whether the assistant says it.
        special: whether it is the name of a special token and stands for it.
    """

    text: str
    said: bool
    special: bool


@dataclass(frozen=True)
class Specials:
    """Names of special tokens, as they may stand in a template but not in what it is filled with.

    Attributes:
        bos: begins a sequence.
        eos: ends it.
        eot: ends a turn; `eos` where the vocabulary has no <|eot_id|>.
    """

    bos: str
    eos: str
    eot: str
    _start: re.Pattern[str]
    _name: re.Pattern[str]

    @classmethod
    def of(cls, ids: Mapping[str, int], bos: int, eos: int) -> "Specials":
        """Those of a vocabulary."""
        names = {index: name for name, index in ids.items()}
        eot = "<|eot_id|>" if "<|eot_id|>" in ids else names[eos]
        # The longest name at a position wins, as in the tokenizer.
        either = "|".join(map(re.escape, sorted(ids, key=len, reverse=True)))
        start, name = re.compile(f"(?={either})"), re.compile(f"(?<!{GUARD})({either})")
        return cls(names[bos], names[eos], eot, start, name)

    def guard(self, text: str) -> str:
        """Text in which no special token will be found."""
        return self._start.sub(GUARD, text)

    def split(self, rendered: str) -> Iterator[Span]:
        """The spans of a rendered template.

        Raises:
            ValueError: what the assistant says ends before it begins, or is nested.
        """
        for text, said in _said_and_not(rendered):
            for index, piece in enumerate(self._name.split(text)):
                if piece:
                    yield Span(piece.replace(GUARD, ""), said, special=index % 2 == 1)


def _said_and_not(rendered: str) -> Iterable[tuple[str, bool]]:
    outside, *parts = rendered.split(BEGIN)
    yield outside, False
    for part in parts:
        inside, *rest = part.split(END)
        if len(rest) != 1:
            raise ValueError("its generation blocks are nested")
        yield inside, True
        yield rest[0], False
