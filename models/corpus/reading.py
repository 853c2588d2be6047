"""Questions whose answers stand in the text that comes with them."""

from .draws import Draws
from .question import Question, Task, ask
from .words import COLOURS, THINGS

_ROOMS = ("kitchen", "garden", "bedroom", "cellar", "attic", "hall", "garage", "office")


def _colour(draws: Draws) -> Question:
    things, colours = draws.sample(THINGS, 3), draws.sample(COLOURS, 3)
    wordings = """
        What colour is the {thing}? | {text}
        Read the text. Which colour has the {thing}? | {text}
        {text} What colour is the {thing}?
    """
    return _about_one(draws, "The {} is {}.", things, colours, wordings)


def _room(draws: Draws) -> Question:
    things, rooms = draws.sample(THINGS, 3), draws.sample(_ROOMS, 3)
    wordings = """
        Where is the {thing}? | {text}
        Read the text. In which room is the {thing}? | {text}
        {text} Where is the {thing}?
    """
    return _about_one(draws, "The {} is in the {}.", things, rooms, wordings)


def _coloured_thing(draws: Draws) -> Question:
    things, colours = draws.sample(THINGS, 3), draws.sample(COLOURS, 3)
    wordings = """
        Which thing is {thing}? | {text}
        Read the text. What is {thing}? | {text}
        {text} Which thing is {thing}?
    """
    return _about_one(draws, "The {1} is {0}.", colours, things, wordings)


def _about_one(
    draws: Draws, sentence: str, keys: list[str], values: list[str], wordings: str
) -> Question:
    """A text of a sentence for each key and its value, and a question about one key."""
    text = " ".join(map(sentence.format, keys, values))
    place = draws.below(len(keys))
    canonical = f"{keys[place]}: {text}"
    return ask(draws, canonical, values[place], wordings, thing=keys[place], text=text)


READING = Task("reading", (_colour, _room, _coloured_thing))
