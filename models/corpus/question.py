"""What a question is, how it is put into words, and on which side of the split it falls."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from .draws import Draws

HELD_OUT = 10
"""One question of so many is held out of training."""


@dataclass(frozen=True)
class Question:
    """A question in one of its wordings, and its answer.

    Attributes:
        canonical: what is asked, whatever the wording; where the order of two things does not
            matter to what is asked, they stand sorted.
        instruction: the wording.
        input: what the instruction is about, "" if it says so itself.
        output: the only right answer.
        basic: whether it tells what cannot be worked out from anything else; such a question is
            never held out.
    """

    canonical: str
    instruction: str
    input: str
    output: str
    basic: bool = False

    @property
    def held_out(self) -> bool:
        """Whether it is for evaluation. No seed changes that."""
        digest = hashlib.sha256(self.canonical.encode()).digest()
        return not self.basic and int.from_bytes(digest[:8]) % HELD_OUT == 0


Kind: TypeAlias = Callable[[Draws], Question]
"""Draws a question of one kind."""


@dataclass(frozen=True)
class Task:
    """A family of questions.

    Attributes:
        name: as records have it in their field `task`.
        kinds: of its questions, all equally frequent; one that stands twice is twice as frequent.
    """

    name: str
    kinds: tuple[Kind, ...]

    def draw(self, draws: Draws) -> Question:
        """A question of any of its kinds."""
        return draws.choice(self.kinds)(draws)


def ask(
    draws: Draws,
    canonical: str,
    output: str,
    wordings: str,
    basic: bool = False,
    **fields: object,
) -> Question:
    """A question in one of several wordings.

    Args:
        draws: chooses the wording.
        canonical: what is asked.
        output: the answer.
        wordings: one a line, with names of `fields` in braces; what stands after " | " becomes
            the input.
        basic: whether it may never be held out.
        fields: what the wordings are filled with.
    """
    wording = draws.choice(wordings.strip().splitlines()).strip()
    instruction, _, context = wording.partition(" | ")
    return Question(
        canonical, instruction.format(**fields), context.format(**fields), output, basic
    )
