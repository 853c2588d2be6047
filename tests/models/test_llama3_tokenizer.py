"""Our tokenizer on Llama 3's vocabulary, which is that of BitNet b1.58 2B-4T.

The vocabulary comes from the package llama-models, as a list of tokens by rank. Of it, a GGUF
file's metadata and a tokenizer.json are made; the first is read by bitgraph, the second by the
`tokenizers` library. That the second is right, the digest of Meta's own file says.
"""

import base64
import hashlib
import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from bitgraph.models.bitnet.tokenizer import SPLIT_PATTERN, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

MODEL_DIGEST = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"
JSON_DIGEST = "e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7"
"""SHA-256 of Meta's tokenizer.model and of the tokenizer.json published beside its weights."""

FIRST_SPECIAL, SPECIALS = 128_000, 256
NAMED = {
    0: "begin_of_text",
    1: "end_of_text",
    6: "start_header_id",
    7: "end_header_id",
    9: "eot_id",
}
BOS, EOS, EOT = 128_000, 128_001, 128_009


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """Tokens by rank, which is their id."""
    spec = importlib.util.find_spec("llama_models")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package llama-models (pip install --no-deps llama-models)")
    path = Path(spec.submodule_search_locations[0]) / "llama3" / "tokenizer.model"
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == MODEL_DIGEST
    pairs = (line.split() for line in data.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def byte_characters() -> list[str]:
    """The character that stands for each byte, as the library has it."""
    level = ByteLevel(add_prefix_space=False, use_regex=False)
    ascii_and_more = "".join(chr(code) for code in range(0x110))
    shown = level.pre_tokenize_str(ascii_and_more)[0][0]
    table = dict(zip(ascii_and_more.encode(), shown, strict=True))
    rest = sorted(set(ByteLevel.alphabet()) - set(table.values()))
    # Bytes that UTF-8 has not in those characters follow in order, as all that are not printable.
    table.update(zip(sorted(set(range(256)) - table.keys()), rest, strict=True))
    return [table[byte] for byte in range(256)]


@pytest.fixture(scope="module")
def tokens(ranks: dict[bytes, int]) -> list[str]:
    characters = byte_characters()
    return ["".join(characters[byte] for byte in token) for token in sorted(ranks, key=ranks.get)]


@pytest.fixture(scope="module")
def merges(ranks: dict[bytes, int], tokens: list[str]) -> list[str]:
    """All ways to join two tokens to a third: by its rank, then by those of the two."""
    found = []
    for token in sorted(ranks, key=ranks.get):
        splits = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [(ranks[a], ranks[b]) for a, b in splits if a in ranks and b in ranks]
        found += [f"{tokens[a]} {tokens[b]}" for a, b in sorted(pairs)]
    return found


def special_names() -> list[str]:
    """Those with a name at their place, the others numbered among themselves."""
    reserved = iter(range(SPECIALS))
    names = (NAMED.get(i) or f"reserved_special_token_{next(reserved)}" for i in range(SPECIALS))
    return [f"<|{name}|>" for name in names]


@pytest.fixture(scope="module")
def ours(tokens: list[str], merges: list[str]) -> Tokenizer:
    """As Microsoft's GGUF file describes it, `tokenizer.ggml.pre` missing."""
    metadata = {
        "model": "gpt2",
        "tokens": tokens + special_names(),
        "token_type": np.array([1] * FIRST_SPECIAL + [3] * SPECIALS, np.int32),
        "merges": merges,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "padding_token_id": EOS,
        "add_bos_token": True,
    }
    keys = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return Tokenizer.from_metadata(keys, "llama3")


@pytest.fixture(scope="module")
def text_of_json(tokens: list[str], merges: list[str]) -> str:
    """The tokenizer.json of Llama 3."""
    split = {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    processor = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [
            {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {
            "<|begin_of_text|>": {
                "id": "<|begin_of_text|>",
                "ids": [BOS],
                "tokens": ["<|begin_of_text|>"],
            }
        },
    }
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": FIRST_SPECIAL + place,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for place, name in enumerate(special_names())
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {**split, "behavior": "Isolated", "invert": False},
                {**level, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "Sequence",
            "processors": [
                {**level, "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                processor,
            ],
        },
        "decoder": {**level, "add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {token: rank for rank, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    return json.dumps(whole, indent=2, ensure_ascii=False)


@pytest.fixture(scope="module")
def theirs(text_of_json: str) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(text_of_json)


def test_the_json_is_the_published_one(text_of_json: str) -> None:
    assert hashlib.sha256(text_of_json.encode()).hexdigest() == JSON_DIGEST


# Comparison

CODE = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
WORDS = [
    *[
        "don't",
        "WE'LL",
        "it'S",
        "naïve",
        "Straße",
        "İstanbul",
        "\u017f",
        "日本語",
        "العربية",
        "हिन्दी",
        "ไทย",
    ],
    *[
        "👩‍👩‍👧",
        "e\u0301",
        "\u200d",
        "\u2028",
        "\ufeff",
        "\x00",
        "\x85",
        "\xa0",
        "\U0010ffff",
        "\ue000",
    ],
    *[
        " ",
        "  ",
        "     ",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\n\n\n",
        " \n ",
        "1234567",
        "٣٤٥",
        "3.14",
        "e-9",
    ],
    *["Ġ", "ĊĊ", "Â", "<|", "|>", "<|eot_id|", "https://a.b/c?d=e", "{}();", "/* */", "=>"],
]


def any_text(source: random.Random) -> str:
    """Words, runs of any characters at all, and pieces of code, one after the other."""

    def letters() -> str:
        top = source.choice([0x80, 0x800, 0x3000, 0xD800, 0x110000])
        codes = (source.randrange(top) for _ in range(source.randrange(1, 9)))
        return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)

    def code() -> str:
        text = source.choice(CODE)
        start = source.randrange(len(text))
        return text[start : start + source.randrange(1, 60)]

    kinds = (lambda: source.choice(WORDS), letters, code)
    return "".join(source.choice(kinds)() for _ in range(source.randrange(1, 12)))


def texts(count: int, seed: int, specials: bool = False) -> list[str]:
    source = random.Random(seed)
    names = special_names()
    made = []
    for _ in range(count):
        parts = [any_text(source)]
        if specials:
            parts += [source.choice(names), any_text(source), *source.choices(names, k=2)]
        made.append("".join(parts))
    return made


def test_text_is_encoded_as_the_library_does(ours: Tokenizer, theirs: tokenizers.Tokenizer) -> None:
    """10,000 texts; names of special tokens in them are text."""
    given = texts(9_000, 1) + texts(1_000, 2, specials=True) + CODE
    theirs.encode_special_tokens = True
    expected = [e.ids for e in theirs.encode_batch(given, add_special_tokens=False)]
    assert ours.encode_batch(given) == expected
    assert [ours.encode(text) for text in given[::20]] == expected[::20]
    assert len({token for ids in expected for token in ids}) > 10_000


def test_special_tokens_are_parsed_as_the_library_does(
    ours: Tokenizer, theirs: tokenizers.Tokenizer
) -> None:
    given = texts(2_000, 3, specials=True)
    theirs.encode_special_tokens = False
    expected = [e.ids for e in theirs.encode_batch(given)]
    assert [ours.encode(text, bos=True, parse_special=True) for text in given] == [
        ids[1:] if ids[1:2] == [BOS] else ids for ids in expected
    ]


def test_decoding_is_the_inverse(ours: Tokenizer, theirs: tokenizers.Tokenizer) -> None:
    given = texts(9_000, 4) + texts(1_000, 5, specials=True) + CODE
    encoded = ours.encode_batch(given)
    assert [ours.decode(ids) for ids in encoded] == given
    theirs.encode_special_tokens = True
    assert theirs.decode_batch(encoded[:500]) == given[:500]


def test_any_ids_are_decoded_as_the_library_does(
    ours: Tokenizer, theirs: tokenizers.Tokenizer
) -> None:
    source = np.random.default_rng(6)
    ids = source.integers(0, ours.vocab_size, (2000, 12)).tolist()
    ids += source.integers(FIRST_SPECIAL - 9, ours.vocab_size, (100, 12)).tolist()
    for skip in (True, False):
        expected = theirs.decode_batch(ids, skip_special_tokens=skip)
        assert [ours.decode(row, skip_special=skip) for row in ids] == expected


def test_tokens_have_the_bytes_of_the_list(ours: Tokenizer, ranks: dict[bytes, int]) -> None:
    assert all(ours.token_bytes(rank) == token for token, rank in ranks.items())
    assert (ours.eos_id, ours.stop_ids) == (EOS, {EOS, EOT})


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("User: How are you?", [1502, 25, 2650, 527, 499, 30]),
        ("Assistant: ", [72803, 25, 220]),
        ("read_file", [888, 2517]),
    ],
)
def test_published_ids(ours: Tokenizer, text: str, ids: list[int]) -> None:
    """As others have published them; [888, 62, 1213] would be another split pattern's."""
    assert ours.encode(text) == ids
