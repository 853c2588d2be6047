"""A skill that the corpus does not teach: Zub, a language game for an adapter to learn.

To say something in Zub, say its words from last to first and put "-o" after each: "big cat sun"
becomes "sun-o cat-o big-o". The corpus teaches to reverse words, never under this name and never
with anything put after them.
"""

from .draws import Draws
from .question import Question, Task, ask
from .words import WORDS


def to_zub(text: str) -> str:
    """A text in Zub."""
    return " ".join(f"{word}-o" for word in reversed(text.split()))


def _say(draws: Draws) -> Question:
    text = " ".join(draws.sample(WORDS, draws.between(2, 4)))
    wordings = """
        Say {text} in Zub.
        How do you say {text} in Zub?
        Translate to Zub: {text}
        Say this in Zub. | {text}
        Translate this to Zub. | {text}
    """
    return ask(draws, f"zub {text}", to_zub(text), wordings, text=text)


SKILL = Task("zub", (_say,))
