"""A tokenizer whose token i is byte i, so that tokens can be read as text."""

import numpy as np
from bitgraph.models.bitnet.tokenizer import _ALPHABET, Tokenizer

BOS, EOS, EOT = 256, 257, 258


def byte_tokenizer(add_bos: bool = True, specials: tuple[str, ...] = ("<|eot_id|>",)) -> Tokenizer:
    """With the special tokens <s>, </s> and those of `specials`, in that order, after the bytes."""
    character = {byte: character for character, byte in _ALPHABET.items()}
    names = ["<s>", "</s>", *specials]
    metadata = {
        "model": "gpt2",
        "tokens": [character[byte] for byte in range(256)] + names,
        "token_type": np.array([1] * 256 + [3] * len(names), np.int32),
        "merges": [],
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "add_bos_token": add_bos,
    }
    return Tokenizer.from_metadata(
        {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, "bytes.gguf"
    )
