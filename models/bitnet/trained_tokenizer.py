"""Training a byte-level BPE tokenizer, for a model that is pretrained."""

import json
from collections.abc import Iterable
from typing import Final

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from ...graph.errors import BitgraphError
from ..gguf import MetadataValue
from .synthetic_tokenizer import SPECIAL_TOKENS, byte_level_metadata
from .tokenizer import llama_pre_tokenizer

SMALLEST: Final = len(pre_tokenizers.ByteLevel.alphabet()) + len(SPECIAL_TOKENS)
"""Tokens that every vocabulary has: bytes and special ones."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> dict[str, MetadataValue]:
    """The `tokenizer.*` pairs of a byte-level BPE tokenizer (Sennrich et al., 2016) made for texts.

    Its tokens are the 256 bytes, then the most frequent merges within the pieces of llama-bpe, then
    `SPECIAL_TOKENS`. The same texts give the same tokenizer.

    Args:
        texts: to count pairs in, without special tokens.
        vocab_size: tokens, special ones included; fewer are made where the texts have no more
            pairs to merge.

    Raises:
        BitgraphError: the vocabulary is too small for the bytes and special tokens.
    """
    if vocab_size < SMALLEST:
        raise BitgraphError(
            f"vocab-size is {vocab_size}, but bytes and special tokens alone are {SMALLEST}; "
            "give more"
        )
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = llama_pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return byte_level_metadata(tokens, [tuple(merge) for merge in model["merges"]])
