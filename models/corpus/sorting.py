"""Letters, words and numbers put in order."""

from .draws import Draws
from .question import Question, Task, ask
from .words import LETTERS, WORDS


def _letters(draws: Draws) -> Question:
    letters = draws.sample(LETTERS, draws.between(3, 5))
    wordings = """
        Sort the letters {items}.
        Put the letters {items} in order.
        Put the letters {items} in the order of the alphabet.
        Sort these letters. | {items}
        Put these letters in the order of the alphabet. | {items}
    """
    items = " ".join(letters)
    return ask(draws, f"sort {items}", " ".join(sorted(letters)), wordings, items=items)


def _words(draws: Draws) -> Question:
    """Words whose first letters differ, so that these alone decide."""
    initials = draws.sample([*_BY_INITIAL], draws.between(2, 4))
    words = [draws.choice(_BY_INITIAL[initial]) for initial in initials]
    wordings = """
        Sort the words {items}.
        Put the words {items} in the order of the alphabet.
        Sort by the alphabet: {items}
        Sort these words. | {items}
        Put these words in the order of the alphabet. | {items}
    """
    items = " ".join(words)
    return ask(draws, f"sort {items}", " ".join(sorted(words)), wordings, items=items)


def _rising(draws: Draws) -> Question:
    numbers = draws.sample(range(100), draws.between(2, 4))
    wordings = """
        Sort the numbers {items}.
        Put the numbers {items} in order, the smallest first.
        Sort from small to large: {items}
        Sort these numbers. | {items}
        Put these numbers in order, the smallest first. | {items}
    """
    return _numbers(draws, "rising", numbers, sorted(numbers), wordings)


def _falling(draws: Draws) -> Question:
    numbers = draws.sample(range(100), draws.between(2, 4))
    wordings = """
        Sort the numbers {items}, the largest first.
        Put the numbers {items} in falling order.
        Sort from large to small: {items}
        Sort these numbers, the largest first. | {items}
        Put these numbers in falling order. | {items}
    """
    return _numbers(draws, "falling", numbers, sorted(numbers, reverse=True), wordings)


def _numbers(
    draws: Draws, order: str, numbers: list[int], answer: list[int], wordings: str
) -> Question:
    items = " ".join(map(str, numbers))
    return ask(draws, f"sort {items} {order}", " ".join(map(str, answer)), wordings, items=items)


_BY_INITIAL = {
    initial: words
    for initial in LETTERS
    if (words := [word for word in WORDS if word.startswith(initial)])
}

SORTING = Task("sorting", (_letters, _words, _rising, _falling))
