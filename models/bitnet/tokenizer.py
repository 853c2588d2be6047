"""The tokenizer a BitNet GGUF file carries: byte-level BPE with Llama 3's split pattern.

The `tokenizers` library does the BPE. Special tokens stay outside of it: they are split off, when
asked, before BPE sees the text, so nothing in a user's text can turn into one.
"""

import codecs
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import models, pre_tokenizers

from ...graph.errors import BitgraphError

Metadata: TypeAlias = Mapping[str, object]

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's pre-tokenizer, `llama-bpe` in GGUF: BPE never merges across these pieces."""

LLAMA_BPE_NAMES = frozenset({"llama-bpe", "llama3", "llama-v3", "default"})
"""Values of `tokenizer.ggml.pre` read as llama-bpe. Microsoft's file lacks the key: read as
`default`, it says that the converter did not know the pattern, which is Llama 3's."""

STOP_TOKENS = ("<|end_of_text|>", "<|eot_id|>")
"""Tokens that end a reply in any vocabulary that has them, whatever the metadata says."""

_PREFIX = "tokenizer.ggml."
_ADVICE = "convert the model again with its complete tokenizer"
_NORMAL = 1
_LAST_TYPE = 5  # 2 unknown, 3 control, 4 user-defined, 5 unused; 6 (byte) is not for BPE.


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary, as GPT-2 defined it."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    characters = [*map(chr, printable), *(chr(256 + rank) for rank in range(len(others)))]
    return dict(zip(characters, printable + others, strict=True))


_ALPHABET = _byte_alphabet()
_LATIN1 = {ord(character): byte for character, byte in _ALPHABET.items()}


class Tokenizer:
    """Text to token ids and back, for one model file.

    Special tokens are those whose type is not "normal", BOS, EOS, EOT and `STOP_TOKENS`.

    Attributes:
        bos_id: begins every sequence when `add_bos` says so.
        eos_id: ends a trained response.
        pad_id: fills unused slots (EOS where the file names none).
        add_bos: whether the model expects BOS at the start of a sequence.
        stop_ids: tokens that end generation.
        digest: tells one tokenizer from another: the same text gives the same ids under both if
            their digests are equal.
    """

    def __init__(self, vocabulary: "_Vocabulary") -> None:
        self.bos_id = vocabulary.bos
        self.eos_id = vocabulary.eos
        self.pad_id = vocabulary.pad
        self.add_bos = vocabulary.add_bos
        self.stop_ids = vocabulary.stops
        self.digest = _digest(vocabulary)
        self._bpe = _build_bpe(vocabulary)
        self._bytes = vocabulary.token_bytes()
        self._special_ids = vocabulary.specials
        self._skipped = frozenset(self._special_ids.values())
        # The longest special token at a position wins, as everywhere else.
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        self._special_pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @classmethod
    def from_metadata(cls, metadata: Metadata, source: str) -> "Tokenizer":
        """Build the tokenizer that a GGUF file's key/values describe.

        Args:
            metadata: the file's key/values; `tokenizer.ggml.*` is read.
            source: the file's name, for errors.

        Raises:
            BitgraphError: a key is missing, malformed or contradicts another, or the tokenizer
                is not byte-level BPE with the llama-bpe pre-tokenizer.
        """
        return cls(_read_vocabulary(_Keys(metadata, source)))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self._bytes)

    def encode(self, text: str, bos: bool = False, *, parse_special: bool = False) -> list[int]:
        """Token ids of `text`.

        Args:
            text: any valid Unicode.
            bos: begin with BOS; it is not doubled if `parse_special` finds one at the start.
            parse_special: read the names of special tokens in `text` as these tokens. For
                templates; text from a user stays text.

        Raises:
            BitgraphError: `text` holds a lone surrogate, which no encoding of text has.
        """
        _check_unicode(text)
        ids = [self.bos_id] if bos else []
        pieces = self._special_pattern.split(text) if parse_special else [text]
        for index, piece in enumerate(pieces):
            if index % 2:  # `split` puts what matched at the odd places
                ids.append(self._special_ids[piece])
            elif piece:
                ids += self._bpe.encode(piece, add_special_tokens=False).ids
        return ids[1:] if bos and ids[1:2] == [self.bos_id] else ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores; each as `encode` gives them.

        Raises:
            BitgraphError: a text holds a lone surrogate.
        """
        for text in texts:
            _check_unicode(text)
        encoded = self._bpe.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Special tokens by name."""
        return self._special_ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD.

        Raises:
            BitgraphError: an id lies outside the vocabulary.
        """
        data = b"".join(
            self.token_bytes(token)
            for token in ids
            if not (skip_special and token in self._skipped)
        )
        return data.decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Bytes that one token stands for (its name if it is special).

        Raises:
            BitgraphError: `token` lies outside the vocabulary.
        """
        if not 0 <= token < len(self._bytes):
            raise BitgraphError(
                f"token id {token} is outside the vocabulary of {len(self._bytes)} tokens; "
                "use ids that this model's tokenizer made"
            )
        return self._bytes[token]

    def stream(self, skip_special: bool = True) -> "StreamDecoder":
        """A decoder that takes tokens one at a time."""
        return StreamDecoder(self, skip_special)


class StreamDecoder:
    """Decodes tokens as they arrive and gives out complete characters only.

    A character may be spread over several tokens; its bytes are held back until the last one is
    there. All that `push` and `finish` return, joined, is `Tokenizer.decode` of all tokens.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Text that `token` completes, possibly none.

        Raises:
            BitgraphError: `token` lies outside the vocabulary.
        """
        if self._skip_special and token in self._tokenizer._skipped:
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left at the end: U+FFFD if the last character never became complete."""
        return self._decoder.decode(b"", final=True)


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BitgraphError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character "
            f"{error.start + 1}, which is not valid Unicode; remove it"
        ) from error


@dataclass(frozen=True)
class _Vocabulary:
    """The checked contents of `tokenizer.ggml.*`; `specials` maps names to ids."""

    tokens: list[str]
    specials: dict[str, int]
    merges: list[tuple[str, str]]
    bos: int
    eos: int
    pad: int
    stops: frozenset[int]
    add_bos: bool

    def token_bytes(self) -> list[bytes]:
        return [
            token.encode() if token in self.specials else token.translate(_LATIN1).encode("latin-1")
            for token in self.tokens
        ]


def _digest(vocabulary: _Vocabulary) -> str:
    """SHA-256 over all that decides what text becomes."""
    v = vocabulary
    facts = (v.tokens, sorted(v.specials), v.merges, v.bos, v.eos, v.add_bos, SPLIT_PATTERN)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _build_bpe(vocabulary: _Vocabulary) -> tokenizers.Tokenizer:
    r"""The BPE engine, which does not know the special tokens.

    BPE takes a whole piece that is in its vocabulary at once, so a special token keeps its place
    there under a name that no byte-level text has: "\0" is not in the alphabet.
    """
    ids = {
        f"\0{token}" if token in vocabulary.specials else token: index
        for index, token in enumerate(vocabulary.tokens)
    }
    bpe = tokenizers.Tokenizer(models.BPE(ids, vocabulary.merges, ignore_merges=True))
    bpe.pre_tokenizer = llama_pre_tokenizer()
    return bpe


def llama_pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """What cuts text into the pieces of llama-bpe, spelled in the byte alphabet."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


@dataclass(frozen=True)
class _Keys:
    """Typed access to the `tokenizer.ggml.*` keys of the file that `source` names."""

    metadata: Metadata
    source: str

    def error(self, key: str, problem: str, advice: str = _ADVICE) -> BitgraphError:
        return BitgraphError(f"{self.source}: {_PREFIX}{key} {problem}; {advice}")

    def has(self, key: str) -> bool:
        return _PREFIX + key in self.metadata

    def required(self, key: str) -> object:
        if not self.has(key):
            raise self.error(key, "is missing")
        return self.metadata[_PREFIX + key]

    def string(self, key: str) -> str:
        value = self.required(key)
        if not isinstance(value, str):
            raise self.error(key, "is not a string")
        return value

    def strings(self, key: str) -> list[str]:
        value = self.required(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "is not an array of strings")
        return value

    def integers(self, key: str) -> npt.NDArray[np.integer]:
        value = self.required(key)
        if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "iu":
            raise self.error(key, "is not an array of integers")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.required(key) if self.has(key) else default
        if not isinstance(value, bool):
            raise self.error(key, "is not a boolean")
        return value

    def token_id(self, key: str, count: int) -> int:
        value = self.required(key)
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise self.error(key, "is not an integer")
        if not 0 <= value < count:
            raise self.error(key, f"is {value}, outside the vocabulary of {count} tokens")
        return int(value)


def _read_vocabulary(keys: _Keys) -> _Vocabulary:
    _check_model(keys)
    tokens = _read_tokens(keys)
    count = len(tokens)
    bos, eos = (keys.token_id(key, count) for key in ("bos_token_id", "eos_token_id"))
    pad = keys.token_id("padding_token_id", count) if keys.has("padding_token_id") else eos
    named = {index for index, token in enumerate(tokens) if token in STOP_TOKENS}
    eot = {keys.token_id("eot_token_id", count)} if keys.has("eot_token_id") else set()
    stops = frozenset({eos} | eot | named)
    special = _read_types(keys, count) != _NORMAL
    special[[bos, *stops]] = True
    specials = {tokens[index]: int(index) for index in np.flatnonzero(special)}
    _check_alphabet(keys, tokens, specials)
    merges = _read_merges(keys, set(tokens) - specials.keys())
    add_bos = keys.boolean("add_bos_token", default=True)
    return _Vocabulary(tokens, specials, merges, bos, eos, pad, stops, add_bos)


def _check_model(keys: _Keys) -> None:
    model = keys.string("model")
    if model != "gpt2":
        advice = "bitgraph reads byte-level BPE (gpt2) tokenizers only"
        raise keys.error("model", f"is {_quote(model)}", advice)
    pre = keys.string("pre") if keys.has("pre") else "default"
    if pre not in LLAMA_BPE_NAMES:
        advice = "bitgraph knows only llama-bpe, so this model's text would be split wrongly"
        raise keys.error("pre", f"is {_quote(pre)}", advice)


def _read_tokens(keys: _Keys) -> list[str]:
    tokens = keys.strings("tokens")
    if "" in tokens:
        raise keys.error("tokens", f"has an empty token at {tokens.index('')}")
    if len(set(tokens)) < len(tokens):
        first: dict[str, int] = {}
        for index, token in enumerate(tokens):
            if first.setdefault(token, index) != index:
                both = f"{first[token]} and {index}"
                raise keys.error("tokens", f"has {_quote(token)} twice, at {both}")
    return tokens


def _read_types(keys: _Keys, count: int) -> npt.NDArray[np.integer]:
    types = keys.integers("token_type")
    if types.size != count:
        raise keys.error("token_type", f"has {types.size} entries for {count} tokens")
    wrong = np.flatnonzero((types < _NORMAL) | (types > _LAST_TYPE))
    if wrong.size:
        entry, value = wrong[0], types[wrong[0]]
        raise keys.error("token_type", f"is {value} at {entry}, not one of {_NORMAL}..{_LAST_TYPE}")
    return types


def _check_alphabet(keys: _Keys, tokens: list[str], specials: dict[str, int]) -> None:
    """Every byte has a token and every normal token is made of bytes, or text would be lost."""
    normal = set(tokens) - specials.keys()
    if absent := sorted(_ALPHABET[character] for character in _ALPHABET.keys() - normal):
        problem = f"lacks a normal token for the byte 0x{absent[0]:02X}"
        raise keys.error("tokens", problem)
    if set("".join(normal)) > _ALPHABET.keys():
        strange = min(tokens.index(token) for token in normal if set(token) - _ALPHABET.keys())
        problem = f"has {_quote(tokens[strange])} at {strange}, which does not stand for bytes"
        raise keys.error("tokens", problem)


def _read_merges(keys: _Keys, normal: set[str]) -> list[tuple[str, str]]:
    """Pairs of tokens in the order of their rank, each merging to a token."""
    merges: list[tuple[str, str]] = []
    for rank, merge in enumerate(keys.strings("merges")):
        left, space, right = merge.partition(" ")
        if not space or " " in right:
            raise keys.error("merges", f"has {_quote(merge)} at {rank}, which is not two tokens")
        if left not in normal or right not in normal or left + right not in normal:
            problem = f"has {_quote(merge)} at {rank}, whose parts or result are not normal tokens"
            raise keys.error("merges", problem)
        merges.append((left, right))
    if len(set(merges)) < len(merges):
        raise keys.error("merges", "has the same merge twice")
    return merges


def _quote(text: str) -> str:
    """`text` as a short, printable literal."""
    return ascii(text if len(text) <= 40 else text[:40] + "...")
