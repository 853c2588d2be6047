"""Letters in words, words in a list."""

from .draws import Draws
from .question import Question, Task, ask
from .words import VOWELS, WORDS


def _letters(draws: Draws) -> Question:
    word = draws.choice(WORDS)
    wordings = """
        How many letters are in the word {word}?
        How many letters does {word} have?
        Count the letters of {word}.
        How long is the word {word}?
        How many letters does this word have? | {word}
        Count the letters. | {word}
    """
    return ask(draws, f"letters of {word}", str(len(word)), wordings, word=word)


def _letters_together(draws: Draws) -> Question:
    first, second = draws.sample(WORDS, 2)
    wordings = """
        How many letters do {first} and {second} have together?
        Count the letters of {first} and {second} together.
        How many letters do these words have together? | {first} {second}
        Count all letters. | {first} {second}
    """
    canonical = "letters of " + " and ".join(sorted([first, second]))
    answer = str(len(first) + len(second))
    return ask(draws, canonical, answer, wordings, first=first, second=second)


def _vowel(draws: Draws) -> Question:
    word = draws.choice(WORDS)
    letter = draws.choice([*VOWELS, *(letter for letter in word if letter in VOWELS)])
    wordings = """
        How many times is the letter {letter} in {word}?
        How often does {letter} occur in the word {word}?
        Count the letter {letter} in {word}.
        How many times is the letter {letter} in this word? | {word}
        Count the letter {letter}. | {word}
    """
    canonical = f"letter {letter} in {word}"
    answer = str(word.count(letter))
    return ask(draws, canonical, answer, wordings, word=word, letter=letter)


def _words(draws: Draws) -> Question:
    words = " ".join(draws.sample(WORDS, draws.between(1, 6)))
    wordings = """
        How many words are here: {words}
        Count the words: {words}
        How many words are in this list? | {words}
        Count the words. | {words}
    """
    return ask(draws, f"words in {words}", str(len(words.split())), wordings, words=words)


def _occurrences(draws: Draws) -> Question:
    word, *others = draws.sample(WORDS, 4)
    length = draws.between(2, 4)
    times = draws.between(1, length)
    words = draws.sample([word] * times + others[: length - times], length)
    wordings = """
        How many times is {word} in this list: {words}
        Count how often {word} occurs: {words}
        How many times is {word} in this list? | {words}
        How often does {word} occur? | {words}
    """
    listed = " ".join(words)
    canonical = f"times of {word} in {listed}"
    return ask(draws, canonical, str(times), wordings, word=word, words=listed)


COUNTING = Task("counting", (_letters, _letters_together, _vowel, _vowel, _words, _occurrences))
