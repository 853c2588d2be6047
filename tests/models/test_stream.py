"""Text of tokens as they come: the same whatever the pieces, and never a part of a stop string."""

from itertools import pairwise

import pytest
from bitgraph.models.bitnet.stream import StopFilter, TextStream
from bitgraph.models.bitnet.synthetic_tokenizer import synthetic_tokenizer
from bitgraph.models.bitnet.tokenizer import Tokenizer
from hypothesis import given
from hypothesis import strategies as st

TOKENIZER = Tokenizer.from_metadata(synthetic_tokenizer(600), "synthetic")


def cut(text, stops):
    """Up to the stop string that is complete first, letter by letter."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if complete:
            return text[: end - len(max(complete, key=len))], True
    return text, False


LETTERS = st.text("ab\n", max_size=12)


@given(LETTERS, st.lists(st.text("ab\n", max_size=4), max_size=3), st.lists(st.integers(0, 12)))
def test_text_ends_before_the_first_complete_stop(text, stops, cuts):
    places = sorted({0, *(min(place, len(text)) for place in cuts), len(text)})
    found = StopFilter(stops)
    shown = "".join(found.push(text[a:b]) for a, b in pairwise(places))
    wanted, stopped = cut(text, stops)
    assert wanted.startswith(shown)
    assert shown + found.finish() == wanted
    assert found.stopped == stopped


@given(LETTERS, st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_part_of_a_stop_is_never_shown(text, stops):
    """However the text goes on after any letter, what is shown by then stands before the stop."""
    found, shown = StopFilter(stops), ""
    for count, letter in enumerate(text, 1):
        shown += found.push(letter)
        for stop in stops:
            for rest in (stop[n:] for n in range(len(stop))):
                assert cut(text[:count] + rest, stops)[0].startswith(shown)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=20))
def test_the_stream_is_the_decoded_whole(ids):
    """Any tokens, so any bytes: halves of characters, and bytes that are no UTF-8 at all."""
    stream = TextStream(iter(ids), TOKENIZER.stream())
    pieces = list(stream)
    assert "".join(pieces) == TOKENIZER.decode(ids)
    assert "".join(pieces).encode() == TOKENIZER.decode(ids).encode()
    assert stream.tokens == ids


@given(st.text(max_size=12))
def test_characters_come_whole(text):
    """A character spread over tokens is never shown in part: no piece has a U+FFFD of its own."""
    pieces = list(TextStream(iter(TOKENIZER.encode(text)), TOKENIZER.stream()))
    assert "".join(pieces) == text
    assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")


@given(st.text("the time é漢", max_size=20), st.text("the time é漢", min_size=1, max_size=3))
def test_a_stop_ends_the_stream_and_asks_for_no_more(text, stop):
    taken = []
    source = (taken.append(token) or token for token in TOKENIZER.encode(text))
    stream = TextStream(source, TOKENIZER.stream(), [stop])
    shown = "".join(stream)
    assert shown == text.partition(stop)[0]
    assert stream.stopped == (stop in text)
    assert stream.tokens == taken
    if stop in text:
        assert stop in TOKENIZER.decode(taken)
        assert stop not in TOKENIZER.decode(taken[:-1])


@pytest.mark.parametrize("stops", [[], [""], ["", "x"]])
def test_an_empty_stop_is_none(stops):
    assert "".join(TextStream(iter(TOKENIZER.encode("the end")), TOKENIZER.stream(), stops)) == (
        "the end"
    )
