"""Words to letters, forwards and backwards, and letters to words."""

from .draws import Draws
from .question import Question, Task, ask
from .words import WORDS

STYLES = {"spaces": " ", "dashes": "-", "dots": "."}
"""What may stand between letters. A word that is held out in one style is trained in another."""


def _spell(draws: Draws) -> Question:
    word, style = draws.choice(WORDS), draws.choice(tuple(STYLES))
    wordings = """
        Spell the word {word} with {style}.
        Spell {word}, with {style} between the letters.
        How do you spell {word} with {style}?
        Write the letters of {word} with {style} between them.
        Spell this word with {style}. | {word}
        Write the letters of the word with {style} between them. | {word}
    """
    answer = STYLES[style].join(word)
    return ask(draws, f"spell {word} with {style}", answer, wordings, word=word, style=style)


def _backwards(draws: Draws) -> Question:
    word, style = draws.choice(WORDS), draws.choice(tuple(STYLES))
    wordings = """
        Spell the word {word} backwards with {style}.
        Spell {word} backwards, with {style} between the letters.
        Write the letters of {word} from the end, with {style}.
        Spell this word backwards with {style}. | {word}
    """
    canonical = f"backwards {word} with {style}"
    answer = STYLES[style].join(reversed(word))
    return ask(draws, canonical, answer, wordings, word=word, style=style)


def _join(draws: Draws) -> Question:
    word, style = draws.choice(WORDS), draws.choice(tuple(STYLES))
    wordings = """
        Which word is spelled {letters}?
        What word do the letters {letters} make?
        Join the letters {letters} into a word.
        Which word is spelled here? | {letters}
        Join these letters into a word. | {letters}
    """
    letters = STYLES[style].join(word)
    return ask(draws, f"join {letters}", word, wordings, letters=letters)


SPELLING = Task("spelling", (_spell, _backwards, _join))
