"""Small sums, differences and products."""

from .draws import Draws
from .question import Question, Task, ask

LARGEST = 40
"""Of the numbers that are added, and of those that something is taken from."""


def _sum(draws: Draws) -> Question:
    a, b = draws.between(0, LARGEST), draws.between(0, LARGEST)
    wordings = """
        What is {a} + {b}?
        What is {a} plus {b}?
        Add {a} and {b}.
        I have {a} and get {b} more. How many do I have?
        There are {a} here and {b} there. How many are there in all?
        Work this out. | {a} + {b}
        Add these numbers. | {a} {b}
    """
    return ask(draws, f"{min(a, b)} + {max(a, b)}", str(a + b), wordings, a=a, b=b)


def _difference(draws: Draws) -> Question:
    b, a = sorted((draws.between(0, LARGEST), draws.between(0, LARGEST)))
    wordings = """
        What is {a} - {b}?
        What is {a} minus {b}?
        Take {b} from {a}.
        I have {a} and lose {b}. How many do I have?
        There were {a} and {b} went away. How many are left?
        Work this out. | {a} - {b}
    """
    return ask(draws, f"{a} - {b}", str(a - b), wordings, a=a, b=b)


def _product(draws: Draws) -> Question:
    a, b = draws.between(2, 5), draws.between(0, 20)
    wordings = """
        What is {a} * {b}?
        What is {a} times {b}?
        Multiply {a} and {b}.
        I get {b} every day. How many do I have after {a} days?
        Work this out. | {a} * {b}
    """
    return ask(draws, f"{min(a, b)} * {max(a, b)}", str(a * b), wordings, a=a, b=b)


ARITHMETIC = Task("arithmetic", (_sum, _sum, _sum, _difference, _difference, _product))
