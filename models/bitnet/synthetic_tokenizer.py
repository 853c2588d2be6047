"""A working byte-level BPE tokenizer of any size, for models that have none of their own."""

from collections.abc import Iterator, Sequence
from itertools import chain, product
from typing import Final

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from ...graph.errors import BitgraphError
from ..gguf import MetadataValue

SPECIAL_TOKENS: Final = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")

_SPACE: Final = "\u0120"  # what byte-level BPE writes for a space
_LETTERS: Final = "etaoinsrhdlucmfywgpbvkxqjz"  # by frequency in English
_WORDS: Final = (
    "the of and to in is that for it was on with as be at by this from or have an not are which "
    "you but his they were we her she will one all would there their what so if out up about "
    "who when more can no make do like time just him know take people into year your good some "
    "them see other than then now look only come its over think also back after use two how our "
    "work first well way even new want because any these give day most us"
)
_NORMAL: Final = 1
_CONTROL: Final = 3


def synthetic_tokenizer(vocab_size: int) -> dict[str, MetadataValue]:
    """The `tokenizer.*` key/value pairs of a byte-level BPE tokenizer of `vocab_size` tokens.

    Its tokens are the 256 bytes, then the results of merges (those that spell frequent English
    words first, then every sequence of letters in order of length), then `SPECIAL_TOKENS`.

    Raises:
        BitgraphError: the vocabulary is too small, or larger than there are sequences of up to
            four letters.
    """
    alphabet = sorted(ByteLevel.alphabet())  # the order of GPT-2's first 256 tokens
    count = vocab_size - len(alphabet) - len(SPECIAL_TOKENS)
    if count < 0:
        smallest = len(alphabet) + len(SPECIAL_TOKENS)
        raise BitgraphError(f"vocab_size must be at least {smallest}, not {vocab_size}")
    merges = _merges(count)
    if len(merges) < count:
        most = vocab_size - count + len(merges)
        raise BitgraphError(f"vocab_size must be at most {most}, not {vocab_size}")
    return byte_level_metadata([*alphabet, *map("".join, merges)], merges)


def byte_level_metadata(
    normal: Sequence[str], merges: Sequence[tuple[str, str]]
) -> dict[str, MetadataValue]:
    """The `tokenizer.*` pairs of a byte-level BPE tokenizer whose last tokens are `SPECIAL_TOKENS`.

    Args:
        normal: its other tokens.
        merges: pairs of them, each of which makes another, the first to be merged first.
    """
    tokens = [*normal, *SPECIAL_TOKENS]
    types = np.full(len(tokens), _NORMAL, np.int32)
    types[-len(SPECIAL_TOKENS) :] = _CONTROL
    bos, eos = len(tokens) - 3, len(tokens) - 2
    return {
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.zeros(len(tokens), np.float32),
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": list(map(" ".join, merges)),
        "tokenizer.ggml.bos_token_id": bos,
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.ggml.padding_token_id": eos,
    }


def _merges(count: int) -> list[tuple[str, str]]:
    """Up to `count` merges of a token made before and a letter, each making a new token."""
    merges: dict[tuple[str, str], None] = {}  # in order, each once
    for merge in chain(_word_merges(), _sequence_merges()):
        if len(merges) == count:
            break
        merges[merge] = None
    return list(merges)


def _word_merges() -> Iterator[tuple[str, str]]:
    for word in _WORDS.split():
        spelled = _SPACE + word
        for end in range(1, len(spelled)):
            yield spelled[:end], spelled[end]


def _sequence_merges() -> Iterator[tuple[str, str]]:
    """Merges to all sequences of 2, 3, 4 letters, with and without a space before."""
    prefixes = [_SPACE, *_LETTERS]
    for _ in range(3):
        yield from product(prefixes, _LETTERS)
        prefixes = list(map("".join, product(prefixes, _LETTERS)))
