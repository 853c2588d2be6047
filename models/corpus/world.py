"""A small world that the seed makes up, and questions about it.

Plain facts are always trained, since nothing else tells them. What is held out are questions that
take two facts, or a fact and a comparison.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .draws import Draws
from .question import Kind, Question, Task, ask
from .words import COLOURS, WORDS

PEOPLE = 20
PLACES = 8
_PETS = ("cat", "dog", "pony", "duck", "fish", "frog", "goat", "rabbit")


@dataclass(frozen=True)
class Person:
    """Somebody.

    Attributes:
        name: no one else's.
        age: no one else's, in years.
        place: where they live.
        colour: which they like.
        pet: which they have.
        friend: name of their friend, whose friend they are.
    """

    name: str
    age: int
    place: str
    colour: str
    pet: str
    friend: str


World = tuple[Person, ...]


def invent_world(seed: int) -> World:
    """The people of a seed."""
    draws = Draws(seed, "world")
    names = _new_names(draws, PEOPLE, _name)
    places = _new_names(draws, PLACES, _place)
    ages = draws.sample(range(5, 80), PEOPLE)
    return tuple(
        Person(
            name,
            age,
            draws.choice(places),
            draws.choice(COLOURS),
            draws.choice(_PETS),
            friend=names[index ^ 1],  # the one beside them
        )
        for index, (name, age) in enumerate(zip(names, ages, strict=True))
    )


def _new_names(draws: Draws, count: int, draw: Callable[[Draws], str]) -> list[str]:
    names: list[str] = []
    while len(names) < count:
        name = draw(draws)
        if name not in names and name not in WORDS:
            names.append(name)
    return names


def _name(draws: Draws) -> str:
    return "".join(draws.choice(letters) for letters in ("bdklmnrst", "aeiou", "dlmnrst", "aeio"))


def _place(draws: Draws) -> str:
    start = "".join(draws.choice(letters) for letters in ("bdfhklmnrst", "aeiou", "lmnr"))
    return start + draws.choice(("ton", "by", "ford", "wick"))


@dataclass(frozen=True)
class _Fact:
    """A property of a person, and how it is asked about.

    Attributes:
        field: of `Person`.
        one: wordings about one person.
        two: wordings about two people.
        check: wordings that ask whether it is so.
    """

    field: str
    one: str
    two: str
    check: str


_HOME = _Fact(
    "place",
    """
    Where does {a} live?
    In which town does {a} live?
    What is the home of {a}?
    Where does this person live? | {a}
    """,
    """
    Where do {a} and {b} live?
    In which towns do {a} and {b} live?
    Where do these people live? | {a} and {b}
    """,
    """
    Does {a} live in {value}?
    Is {value} the home of {a}?
    """,
)
_COLOUR = _Fact(
    "colour",
    """
    Which colour does {a} like?
    What is the colour that {a} likes best?
    Which colour does this person like? | {a}
    """,
    """
    Which colours do {a} and {b} like?
    What are the colours that {a} and {b} like best?
    Which colours do these people like? | {a} and {b}
    """,
    """
    Does {a} like the colour {value}?
    Is {value} the colour that {a} likes best?
    """,
)
_PET = _Fact(
    "pet",
    """
    Which pet does {a} have?
    What is the pet of {a}?
    Which pet does this person have? | {a}
    """,
    """
    Which pets do {a} and {b} have?
    What are the pets of {a} and {b}?
    Which pets do these people have? | {a} and {b}
    """,
    """
    Does {a} have a {value}?
    Is the pet of {a} a {value}?
    """,
)
_FACTS = (_HOME, _COLOUR, _PET)


def _one_fact(world: World, draws: Draws) -> Question:
    person, fact = draws.choice(world), draws.choice(_FACTS)
    answer = getattr(person, fact.field)
    return ask(draws, f"{fact.field} of {person.name}", answer, fact.one, basic=True, a=person.name)


def _age(world: World, draws: Draws) -> Question:
    person = draws.choice(world)
    wordings = """
        How old is {a}?
        What is the age of {a}?
        How old is this person? | {a}
    """
    canonical = f"age of {person.name}"
    return ask(draws, canonical, str(person.age), wordings, basic=True, a=person.name)


def _friend(world: World, draws: Draws) -> Question:
    person = draws.choice(world)
    wordings = """
        Who is the friend of {a}?
        What is the name of the friend of {a}?
        Who is the friend of this person? | {a}
    """
    canonical = f"friend of {person.name}"
    return ask(draws, canonical, person.friend, wordings, basic=True, a=person.name)


def _two_facts(world: World, draws: Draws) -> Question:
    (a, b), fact = draws.sample(world, 2), draws.choice(_FACTS)
    answer = f"{getattr(a, fact.field)} and {getattr(b, fact.field)}"
    canonical = f"{fact.field} of {_both(a, b)}"
    return ask(draws, canonical, answer, fact.two, a=a.name, b=b.name)


def _check(world: World, draws: Draws) -> Question:
    """A little more than half of the answers are yes: people may have things in common."""
    person, fact = draws.choice(world), draws.choice(_FACTS)
    value = getattr(draws.choice((person, draws.choice(world))), fact.field)
    answer = "yes" if value == getattr(person, fact.field) else "no"
    canonical = f"is {value} the {fact.field} of {person.name}"
    return ask(draws, canonical, answer, fact.check, a=person.name, value=value)


def _older(world: World, draws: Draws) -> Question:
    a, b = draws.sample(world, 2)
    wordings = """
        Who is older, {a} or {b}?
        Which of {a} and {b} is older?
        Who is the older one? | {a} or {b}
    """
    answer = a.name if a.age > b.age else b.name
    return ask(draws, f"older of {_both(a, b)}", answer, wordings, a=a.name, b=b.name)


def _younger(world: World, draws: Draws) -> Question:
    a, b = draws.sample(world, 2)
    wordings = """
        Who is younger, {a} or {b}?
        Which of {a} and {b} is younger?
        Who is the younger one? | {a} or {b}
    """
    answer = a.name if a.age < b.age else b.name
    return ask(draws, f"younger of {_both(a, b)}", answer, wordings, a=a.name, b=b.name)


def _both(a: Person, b: Person) -> str:
    return " and ".join(sorted((a.name, b.name)))


_KINDS = (_one_fact, _one_fact, _age, _friend, _two_facts, _two_facts, _check, _older, _younger)


def world_task(world: World) -> Task:
    """Questions about this world."""
    kinds: tuple[Kind, ...] = tuple(partial(kind, world) for kind in _KINDS)
    return Task("world", kinds)
