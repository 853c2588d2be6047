"""Texts changed by a rule, and parts of them.

Rules whose answers are unusual strings (upper case, without vowels) are asked of two words at a
time: each word is trained beside many others, and pairs are held out.
"""

from .draws import Draws
from .question import Question, Task, ask
from .words import LETTERS, VOWELS, WORDS

_ORDINALS = ("first", "second", "third", "fourth")


def _upper(draws: Draws) -> Question:
    words = " ".join(draws.sample(WORDS, 2))
    wordings = """
        Write {words} in upper case.
        Write {words} in capital letters.
        Write this in upper case. | {words}
        Make all letters capital. | {words}
    """
    return ask(draws, f"upper {words}", words.upper(), wordings, words=words)


def _lower(draws: Draws) -> Question:
    words = " ".join(draws.sample(WORDS, 2))
    wordings = """
        Write {capitals} in lower case.
        Write {capitals} in small letters.
        Write this in lower case. | {capitals}
        Make all letters small. | {capitals}
    """
    return ask(draws, f"lower {words}", words, wordings, capitals=words.upper())


def _without_vowels(draws: Draws) -> Question:
    words = " ".join(draws.sample(WORDS, 2))
    wordings = """
        Remove the vowels from {words}.
        Write {words} without vowels.
        Remove all vowels. | {words}
        Write this without vowels. | {words}
    """
    answer = "".join(letter for letter in words if letter not in VOWELS)
    return ask(draws, f"no vowels {words}", answer, wordings, words=words)


def _reversed_words(draws: Draws) -> Question:
    words = draws.sample(WORDS, draws.between(2, 4))
    wordings = """
        Reverse the order of the words {items}.
        Write the words {items} in reverse order.
        Say these words from last to first: {items}
        Reverse the order of these words. | {items}
        Write these words in reverse order. | {items}
    """
    items = " ".join(words)
    return ask(draws, f"reverse {items}", " ".join(reversed(words)), wordings, items=items)


def _reversed_letters(draws: Draws) -> Question:
    letters = draws.sample(LETTERS, draws.between(3, 5))
    wordings = """
        Reverse the letters {items}.
        Write the letters {items} in reverse order.
        Reverse these letters. | {items}
        Write these letters in reverse order. | {items}
    """
    items = " ".join(letters)
    return ask(draws, f"reverse {items}", " ".join(reversed(letters)), wordings, items=items)


def _end_letter(draws: Draws) -> Question:
    word, end = draws.choice(WORDS), draws.choice(("first", "last"))
    wordings = """
        What is the {end} letter of {word}?
        Which letter comes {end} in the word {word}?
        Give the {end} letter of {word}.
        What is the {end} letter of this word? | {word}
    """
    answer = word[0] if end == "first" else word[-1]
    return ask(draws, f"{end} letter of {word}", answer, wordings, word=word, end=end)


def _end_letters(draws: Draws) -> Question:
    words, end = draws.sample(WORDS, draws.between(2, 3)), draws.choice(("first", "last"))
    wordings = """
        What are the {end} letters of {items}?
        Give the {end} letters of the words {items}.
        What are the {end} letters of these words? | {items}
    """
    items = " ".join(words)
    answer = " ".join(word[0] if end == "first" else word[-1] for word in words)
    return ask(draws, f"{end} letters of {items}", answer, wordings, items=items, end=end)


def _repeat(draws: Draws) -> Question:
    word, times = draws.choice(WORDS), draws.between(2, 4)
    wordings = """
        Repeat the word {word} {times} times.
        Say {word} {times} times.
        Write {word} {times} times.
        Repeat this word {times} times. | {word}
        Write this {times} times. | {word}
    """
    answer = " ".join([word] * times)
    return ask(draws, f"repeat {word} {times}", answer, wordings, word=word, times=times)


def _nth_word(draws: Draws) -> Question:
    words = draws.sample(WORDS, draws.between(2, 4))
    place = draws.below(len(words))
    wordings = """
        What is the {place} word of {items}?
        Give the {place} word: {items}
        What is the {place} word? | {items}
        Give the {place} of these words. | {items}
    """
    items, name = " ".join(words), _ORDINALS[place]
    return ask(draws, f"{name} word of {items}", words[place], wordings, items=items, place=name)


TEXT = Task(
    "text",
    (
        _upper,
        _lower,
        _without_vowels,
        _reversed_words,
        _reversed_letters,
        _end_letter,
        _end_letters,
        _repeat,
        _nth_word,
    ),
)
