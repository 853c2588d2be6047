"""Answers to the corpus's questions, from their wording alone: what a person would do.

It knows nothing of the generator, so it tells whether the wordings say what is asked, and whether
two wordings ask the same.
"""

import re

_SEPARATORS = {"spaces": " ", "dashes": "-", "dots": "."}
_ORDINALS = ("first", "second", "third", "fourth")


def solve(task, instruction, context):
    """What is asked, as a tuple, and the answer."""
    listed = context or instruction.rpartition(": ")[2]
    return _SOLVERS[task](instruction, context, f"{instruction} {context}", listed)


def _first(pattern, text):
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return found[1]


def _spelling(instruction, context, text, listed):
    spelled = re.search(r"(?<!\w)\w(?:[ .-]\w)+(?!\w)", text)
    if spelled:
        return ("join", spelled[0]), re.sub(r"\W", "", spelled[0])
    word = context or _first(r"(?:[Ss]pell the word|[Ss]pell|letters of) (\w+)", text)
    style = _first(r"(spaces|dashes|dots)", text)
    backwards = "backwards" in text or "from the end" in text
    letters = [*word][:: -1 if backwards else 1]
    return ("spell", word, style, backwards), _SEPARATORS[style].join(letters)


def _counting(instruction, context, text, listed):
    if found := re.search(r"letter (\w)\b|does (\w) occur", text):
        letter = found[1] or found[2]
        word = context or _first(r"in (?:the word )?(\w+)", instruction.split(letter, 1)[1])
        return ("letter", letter, word), str(word.count(letter))
    if "letter" in text or "How long" in text:
        words = context or _first(r"(?:in the word|the word|does|do|of) (\w+(?: and \w+)?)", text)
        words = [word for word in words.split() if word != "and"]
        return ("letters", *sorted(words)), str(sum(map(len, words)))
    if re.search(r"[Cc]ount the words|many words", text):
        return ("words", listed), str(len(listed.split()))
    word = _first(r"(?:times is|how often|does) (\w+)", text)
    return ("times", word, listed), str(sum(other == word for other in listed.split()))


def _sorting(instruction, context, text, listed):
    if not context and ":" not in instruction:
        listed = _first(r"(?:words|letters|numbers) ([\w ]+?)(?: in | from |,|\.)", text)
    items = listed.split()
    falling = bool(re.search("largest first|falling|large to small", text))
    key = int if items[0].isdigit() else str
    return ("sort", listed, falling), " ".join(sorted(items, key=key, reverse=falling))


def _arithmetic(instruction, context, text, listed):
    a, b = map(int, re.findall(r"\d+", text))
    if re.search(r"\+|plus|[Aa]dd|more|in all", text):
        return ("+", *sorted((a, b))), str(a + b)
    if re.search(r"\*|times|Multiply|every day", text):
        return ("*", *sorted((a, b))), str(a * b)
    a, b = sorted((a, b), reverse=True)  # "take 3 from 5"
    return ("-", a, b), str(a - b)


def _text(instruction, context, text, listed):
    items = context or (listed if ":" in instruction else _items(instruction))
    words = items.split()
    if re.search("upper|capital", text):
        return ("upper", items), items.upper()
    if re.search("lower case|small letters|letters small", text):
        return ("lower", items), items.lower()
    if "vowels" in text:
        return ("vowels", items), re.sub("[aeiou]", "", items)
    if re.search("[Rr]everse|last to first", text):
        return ("reverse", items), " ".join(words[::-1])
    if times := re.search(r"(\d) times", text):
        return ("repeat", items, times[1]), " ".join([items] * int(times[1]))
    place = _first(r"\b(first|second|third|fourth|last)\b", instruction)
    if "letter" in instruction:
        letters = [word[0] if place == "first" else word[-1] for word in words]
        return ("letters", place, items), " ".join(letters)
    return ("word", place, items), words[_ORDINALS.index(place)]


_LEADS = (
    r"Write the words|Write the letters|Write|Reverse the order of the words|Reverse the letters|"
    r"Remove the vowels from|Repeat the word|Say|What (?:is|are) the \w+ (?:letters?|word) of|"
    r"Which letter comes \w+ in the word|Give the \w+ letters? of(?: the words)?"
)
_TAILS = r" in (?:upper|lower|capital|small|reverse) \w+| without vowels| \d times"


def _items(instruction):
    """What an instruction of the task "text" is about, if it has no input and no colon."""
    return _first(rf"^(?:{_LEADS}) ([\w ]+?)(?:{_TAILS})?[.?]$", instruction)


def _reading(instruction, context, text, listed):
    facts = dict(re.findall(r"The (\w+) is (?:in the )?(\w+)", text))
    question = re.split(r"\. ", instruction)[-1]
    if asked := re.search(r"(?:colour is|colour has|Where is|room is) the (\w+)", question):
        answer = facts[asked[1]]
    else:
        asked = re.search(r"(?:thing|What) is (\w+)", question)
        (answer,) = (thing for thing, colour in facts.items() if colour == asked[1])
    return (asked[1], *facts.items()), answer


def _zub(instruction, context, text, listed):
    if not context and ":" not in instruction:
        listed = _first(r"[Ss]ay (.*) in Zub", instruction)
    answer = ""
    for word in listed.split():
        answer = f"{word}-o {answer}"
    return ("zub", listed), answer.strip()


_SOLVERS = {
    "spelling": _spelling,
    "counting": _counting,
    "sorting": _sorting,
    "arithmetic": _arithmetic,
    "text": _text,
    "reading": _reading,
    "zub": _zub,
}
"""All tasks whose questions hold all that it takes to answer them."""

SOLVED = frozenset(_SOLVERS)
