"""The tokenizer built from GGUF metadata, against the `tokenizers` library's own reading."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.bitnet.tokenizer import _ALPHABET, StreamDecoder, Tokenizer
from bitgraph.models.gguf import read_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

MINI = Path(__file__).parents[2].parent / "shared" / "models" / "mini"
CHARACTER = {byte: character for character, byte in _ALPHABET.items()}
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|x|>", "<|x|>y"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "Ġ Ġ", "1 2", "12 3"]
BOS, EOS, EOT = 264, 265, 266


def small_metadata(**changes: object) -> dict[str, Any]:
    """Every byte, a few merges and five special tokens; `changes` replace keys, None removes."""
    tokens = [CHARACTER[byte] for byte in range(256)]
    tokens += [merge.replace(" ", "") for merge in MERGES] + SPECIALS
    values: dict[str, object] = {
        "model": "gpt2",
        "tokens": tokens,
        "token_type": np.array([1] * 264 + [3] * 5, np.int32),
        "merges": list(MERGES),
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "padding_token_id": EOS,
        "add_bos_token": True,
    }
    values |= changes
    return {f"tokenizer.ggml.{key}": v for key, v in values.items() if v is not None}


def small(**changes: object) -> Tokenizer:
    return Tokenizer.from_metadata(small_metadata(**changes), "small.gguf")


SMALL = small()


@pytest.fixture(scope="module")
def mini() -> Tokenizer:
    path = MINI / "mini-i2_s.gguf"
    if not path.exists():
        pytest.skip(f"needs ../shared/models/mini/{path.name} (not part of the repository)")
    return Tokenizer.from_metadata(read_gguf(path).metadata, path.name)


@pytest.fixture(scope="module")
def reference() -> tokenizers.Tokenizer:
    path = MINI / "hf" / "tokenizer.json"
    if not path.exists():
        pytest.skip("needs ../shared/models/mini/hf/tokenizer.json (not part of the repository)")
    return tokenizers.Tokenizer.from_file(str(path))


FRAGMENTS = [
    *"aZ9 \t\n\r.,;'\"_-<|>{}()[]=\\/\0\x7f\x85\xa0",
    *[
        "é",
        "ß",
        "İ",
        "\u017f",
        "Ω",
        "\u0301",
        "\u200d",
        "\u2028",
        "\ufeff",
        "日本語",
        "\u0627",
        "👩‍👩‍👧",
        "\U0010ffff",
    ],
    *["don't", "WE'LL", "it'S", "  ", "    ", "\r\n", "\n\n\n", "1234567", "٣٤٥", "3.14", "e-9"],
    *["def f(x):\n    return x\n", "for (int i = 0; i < n; ++i)", "\t\tif ", "https://a.b/c?d=e"],
    *["Hello", " world", " the", "Response", "###", "Ġ", "Ċ", "ĠĠ", "Â"],
    *["<|eot_id|>", "<|begin_of_text|>", "<|end_of_text|", "<|reserved_special_token_1|>"],
]


def random_text(source: random.Random) -> str:
    plain = [chr(source.randrange(0x20, 0x3000)) for _ in range(3)]
    return "".join(source.choices(FRAGMENTS + plain, k=source.randrange(1, 25)))


def random_texts(count: int) -> list[str]:
    source = random.Random(20240229)
    return [random_text(source) for _ in range(count)]


def test_encodes_as_the_library_does(mini: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    texts = random_texts(4000)
    reference.encode_special_tokens = True
    assert [mini.encode(text) for text in texts] == [
        reference.encode(text, add_special_tokens=False).ids for text in texts
    ]


def test_parses_special_tokens_as_the_library_does(
    mini: Tokenizer, reference: tokenizers.Tokenizer
) -> None:
    texts = [text for text in random_texts(4000) if "<|" in text]
    assert len(texts) > 500
    reference.encode_special_tokens = False
    assert [mini.encode(text, parse_special=True) for text in texts] == [
        reference.encode(text, add_special_tokens=False).ids for text in texts
    ]


@pytest.mark.parametrize("skip_special", [True, False])
def test_decodes_as_the_library_does(
    mini: Tokenizer, reference: tokenizers.Tokenizer, skip_special: bool
) -> None:
    source = np.random.default_rng(7)
    for _ in range(500):
        ids = source.integers(0, mini.vocab_size, size=20).tolist()
        expected = reference.decode(ids, skip_special_tokens=skip_special)
        assert mini.decode(ids, skip_special=skip_special) == expected


def test_mini_properties(mini: Tokenizer) -> None:
    assert mini.vocab_size == 4096
    assert (mini.bos_id, mini.eos_id, mini.pad_id) == (4080, 4081, 4081)
    assert mini.stop_ids == {4081, 4082}
    assert mini.add_bos


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("hello hello", ["hello", " hello"]),
        ("12345", ["123", "4", "5"]),
        ("hellohell", ["hello", "hell"]),
        ("   hello", ["  ", " hello"]),
        ("h\nello", ["h", "\n", "e", "ll", "o"]),
    ],
)
def test_merges_and_splits_known_text(text: str, pieces: list[str]) -> None:
    assert [SMALL.decode([token]) for token in SMALL.encode(text)] == pieces


def test_takes_a_whole_piece_without_merges() -> None:
    tokens = [*small_metadata()["tokenizer.ggml.tokens"], "zebra"]
    types = np.array([1] * 264 + [3] * 5 + [1], np.int32)
    assert small(tokens=tokens, token_type=types).encode("zebra") == [269]


@given(st.text())
def test_decoding_gives_the_text_back(text: str) -> None:
    ids = SMALL.encode(text)
    assert SMALL.decode(ids) == text
    assert b"".join(map(SMALL.token_bytes, ids)) == text.encode()


@given(st.lists(st.integers(0, SMALL.vocab_size - 1)), st.booleans())
def test_streaming_equals_decoding_the_whole(ids: list[int], skip_special: bool) -> None:
    stream = StreamDecoder(SMALL, skip_special)
    assert "".join(map(stream.push, ids)) + stream.finish() == SMALL.decode(ids, skip_special)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), min_size=1))
def test_streaming_shows_each_character_once_it_is_complete(text: str) -> None:
    """At every split the stream has shown exactly the complete characters."""
    stream = SMALL.stream()
    shown, data = "", b""
    for byte in text.encode():
        shown += stream.push(byte)  # token i of the small vocabulary is byte i
        data += bytes([byte])
        assert shown == data.decode(errors="ignore")
    assert shown == text
    assert stream.finish() == ""


def test_streaming_ends_a_broken_character_with_a_replacement() -> None:
    stream = SMALL.stream()
    assert [stream.push(byte) for byte in "é👩".encode()[:-1]] == ["", "é", "", "", ""]
    assert stream.finish() == "\ufffd"


def test_special_tokens_in_user_text_stay_text() -> None:
    text = "".join(SPECIALS)
    assert max(SMALL.encode(text)) < BOS
    assert SMALL.decode(SMALL.encode(text)) == text


def test_special_token_made_of_one_piece_stays_text() -> None:
    """BPE takes a whole piece found in its vocabulary; a special one must not be found."""
    tokens = [*small_metadata()["tokenizer.ggml.tokens"], "zebra"]
    tokenizer = small(tokens=tokens, token_type=np.array([1] * 264 + [3] * 6, np.int32))
    assert tokenizer.decode(tokenizer.encode("zebra")) == "zebra"
    assert 269 not in tokenizer.encode("zebra")
    assert tokenizer.encode("zebra", parse_special=True) == [269]


@pytest.mark.parametrize("kind", [1, 2, 4, 5])
def test_stop_tokens_are_special_whatever_their_type(kind: int) -> None:
    types = np.array([1] * 264 + [kind] * 3 + [3] * 2, np.int32)
    tokenizer = small(token_type=types)
    assert EOT not in tokenizer.encode("<|eot_id|>")
    assert tokenizer.encode("<|eot_id|>", parse_special=True) == [EOT]
    assert tokenizer.decode([104, EOT, EOS, BOS]) == "h"


def test_longest_special_token_wins() -> None:
    assert SMALL.encode("<|x|>y<|x|>z", parse_special=True) == [268, 267, ord("z")]


@pytest.mark.parametrize("text", ["", "hello", "<|begin_of_text|>hello", " <|begin_of_text|>"])
@pytest.mark.parametrize("parse_special", [True, False])
def test_bos_comes_first_and_once(text: str, parse_special: bool) -> None:
    ids = SMALL.encode(text, bos=True, parse_special=parse_special)
    plain = SMALL.encode(text, parse_special=parse_special)
    assert ids[0] == BOS
    assert ids[1:2] != [BOS]
    assert ids[1:] == (plain[1:] if plain[:1] == [BOS] else plain)


def test_no_bos_unless_asked() -> None:
    assert SMALL.encode("") == []
    assert BOS not in SMALL.encode("hello<|begin_of_text|>")


def test_decode_keeps_special_tokens_when_asked() -> None:
    ids = [BOS, *SMALL.encode("hello"), EOS]
    assert SMALL.decode(ids) == "hello"
    assert SMALL.decode(ids, skip_special=False) == "<|begin_of_text|>hello<|end_of_text|>"


def test_optional_keys() -> None:
    tokenizer = small(padding_token_id=None, add_bos_token=None, eot_token_id=267)
    assert tokenizer.pad_id == EOS
    assert tokenizer.add_bos
    assert tokenizer.stop_ids == {EOS, EOT, 267}
    assert not small(add_bos_token=False).add_bos


@pytest.mark.parametrize("pre", ["llama-bpe", "llama3", "llama-v3", "default"])
def test_names_of_the_pre_tokenizer(pre: str) -> None:
    assert small(pre=pre).encode("12345 hello") == SMALL.encode("12345 hello")


def replaced(key: str, index: int, value: object) -> dict[str, object]:
    """The change that puts `value` at `index` of the array `key`."""
    array = small_metadata()[f"tokenizer.ggml.{key}"].copy()
    array[index] = value
    return {key: array}


@pytest.mark.parametrize(
    ("changes", "key", "problem"),
    [
        *(({key: None}, key, "is missing") for key in ("model", "tokens", "token_type", "merges")),
        *(({key: None}, key, "is missing") for key in ("bos_token_id", "eos_token_id")),
        ({"model": "llama"}, "model", "is 'llama'"),
        ({"model": 3}, "model", "is not a string"),
        ({"pre": "gpt-2"}, "pre", "is 'gpt-2'"),
        ({"pre": "\x1b[31m" * 50}, "pre", r"is '\\x1b\[31m"),
        ({"pre": ["llama-bpe"]}, "pre", "is not a string"),
        ({"tokens": "abc"}, "tokens", "is not an array of strings"),
        ({"tokens": np.arange(4)}, "tokens", "is not an array of strings"),
        ({"tokens": ["a", 1]}, "tokens", "is not an array of strings"),
        ({"tokens": [], "token_type": np.array([], np.int32)}, "bos_token_id", "is 264"),
        (replaced("tokens", 256, "hello"), "tokens", "has 'hello' twice, at 256 and 259"),
        (replaced("tokens", 256, ""), "tokens", "has an empty token at 256"),
        (replaced("tokens", 65, "ZZ"), "tokens", "lacks a normal token for the byte 0x41"),
        (replaced("tokens", 262, "a b"), "tokens", "has 'a b' at 262, which does not stand"),
        (replaced("token_type", 65, 3), "tokens", "lacks a normal token for the byte 0x41"),
        ({"bos_token_id": 65}, "tokens", "lacks a normal token for the byte 0x41"),
        ({"token_type": np.ones(268, np.int32)}, "token_type", "has 268 entries for 269 tokens"),
        ({"token_type": np.ones(269, np.float32)}, "token_type", "is not an array of integers"),
        ({"token_type": [1] * 269}, "token_type", "is not an array of integers"),
        (replaced("token_type", 5, 6), "token_type", "is 6 at 5"),
        (replaced("token_type", 5, -1), "token_type", "is -1 at 5"),
        ({"merges": np.arange(3)}, "merges", "is not an array of strings"),
        (replaced("merges", 1, "ll"), "merges", "has 'll' at 1, which is not two tokens"),
        (replaced("merges", 1, "l l l"), "merges", "has 'l l l' at 1, which is not two tokens"),
        (replaced("merges", 1, "l "), "merges", "has 'l ' at 1, whose parts"),
        (replaced("merges", 1, "q qq"), "merges", "has 'q qq' at 1, whose parts"),
        (replaced("merges", 1, "q q"), "merges", "has 'q q' at 1, whose parts or result"),
        (replaced("merges", 1, "h e"), "merges", "has the same merge twice"),
        (replaced("token_type", 256, 4), "merges", "has 'h e' at 0, whose parts or result"),
        ({"bos_token_id": 269}, "bos_token_id", "is 269, outside the vocabulary of 269"),
        ({"eos_token_id": -1}, "eos_token_id", "is -1, outside the vocabulary"),
        ({"eot_token_id": 2**63}, "eot_token_id", "is 9223372036854775808, outside the vocabulary"),
        ({"padding_token_id": 1.0}, "padding_token_id", "is not an integer"),
        ({"bos_token_id": True}, "bos_token_id", "is not an integer"),
        ({"add_bos_token": 1}, "add_bos_token", "is not a boolean"),
    ],
)
def test_malformed_metadata(changes: dict[str, object], key: str, problem: str) -> None:
    with pytest.raises(
        BitgraphError, match=rf"^small\.gguf: tokenizer\.ggml\.{key} {problem}"
    ) as e:
        small(**changes)
    assert "\n" not in str(e.value)
    assert str(e.value).isprintable()
    assert len(str(e.value)) < 300


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(small_metadata())),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.text(max_size=3))
    | st.lists(st.integers(-(2**31), 2**31 - 1)).map(lambda x: np.array(x, np.int32)),
)
def test_no_metadata_escapes_as_another_error(key: str, value: object) -> None:
    metadata = small_metadata()
    metadata[key] = value
    try:
        tokenizer = Tokenizer.from_metadata(metadata, "small.gguf")
    except BitgraphError:
        return
    assert tokenizer.decode(tokenizer.encode("hello, 123")) == "hello, 123"


@pytest.mark.parametrize("token", [-1, 269, 2**40])
def test_ids_outside_the_vocabulary(token: int) -> None:
    for use in (SMALL.token_bytes, SMALL.stream().push, lambda token: SMALL.decode([token])):
        with pytest.raises(BitgraphError, match=f"token id {token} is outside the vocabulary"):
            use(token)


def test_lone_surrogate() -> None:
    with pytest.raises(BitgraphError, match=r"lone surrogate \(U\+D83D\) at character 3"):
        SMALL.encode("ab\ud83d")


def test_a_vocabulary_of_llama_3_size_builds_in_seconds() -> None:
    """128,256 tokens and 280,000 merges: every split of a chain of pairs, triples and so on."""
    letters = [CHARACTER[byte] for byte in range(256)]
    pairs = [(a, b) for a in letters for b in letters]
    triples = [(a + b, c) for a in letters[:80] for b in letters[:30] for c in letters[:26]]
    tokens = letters + ["".join(pair) for pair in pairs + triples] + SPECIALS
    merges = [" ".join(pair) for pair in pairs + triples]
    merges += [f"{a[0]} {a[1]}{b}" for a, b in triples]
    types = np.array([1] * (len(tokens) - 5) + [3] * 5, np.int32)
    first = len(tokens) - 5
    start = time.perf_counter()
    tokenizer = small(
        tokens=tokens,
        merges=merges,
        token_type=types,
        bos_token_id=first,
        eos_token_id=first + 1,
        padding_token_id=None,
    )
    assert time.perf_counter() - start < 5
    assert tokenizer.vocab_size == len(tokens) == 128_197
    assert tokenizer.decode(tokenizer.encode("hello there")) == "hello there"
