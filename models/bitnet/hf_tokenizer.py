"""tokenizer.json of a Hugging Face folder as the key/value pairs that GGUF has for a tokenizer."""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...graph.errors import BitgraphError
from ..files import read_json_object
from ..gguf import MetadataValue
from .tokenizer import SPLIT_PATTERN

TOKENIZER: Final = "tokenizer.json"

_NORMAL: Final = 1
_CONTROL: Final = 3
_USER_DEFINED: Final = 4


def read_hf_tokenizer(
    folder: Path, config: Mapping[str, Any], vocab_size: int
) -> dict[str, MetadataValue]:
    """The `tokenizer.*` pairs of a folder.

    BOS is put first unless tokenizer_config.json says no, or there is a post-processor that does
    not add it.

    Args:
        folder: where tokenizer.json lies.
        config: the keys of config.json; BOS and EOS are taken from it.
        vocab_size: rows of the embedding, which the tokens must not exceed.

    Raises:
        BitgraphError: the file is missing or damaged, or its tokenizer is not byte-level BPE with
            Llama 3's split pattern.
    """
    path = folder / TOKENIZER
    content = read_json_object(path)
    try:
        _check_splitting(content)
        types = _types(content, vocab_size)
        merges = _merges(content["model"])
    except BitgraphError as error:
        raise BitgraphError(f"{path}: {error}") from None
    bos, eos = (_special_id(config, name, folder) for name in ("bos_token_id", "eos_token_id"))
    return {
        "tokenizer.ggml.add_bos_token": _adds_bos(folder, content, bos),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": list(types),
        "tokenizer.ggml.token_type": np.array(list(types.values()), np.int32),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": bos,
        "tokenizer.ggml.eos_token_id": eos,
    }


def _check_splitting(content: Mapping[str, Any]) -> None:
    """Text must be split and spelled as `Tokenizer` does it."""
    model, splitter = content.get("model"), content.get("pre_tokenizer")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise BitgraphError("the model is not BPE; bitgraph reads byte-level BPE tokenizers only")
    if content.get("normalizer") is not None:
        raise BitgraphError("it has a normalizer, which is not supported")
    steps = splitter.get("pretokenizers") if isinstance(splitter, dict) else None
    steps = [step for step in steps or [] if isinstance(step, dict)]
    patterns = [step["pattern"] for step in steps if "pattern" in step]
    if patterns != [{"Regex": SPLIT_PATTERN}] or steps[-1].get("type") != "ByteLevel":
        raise BitgraphError(
            "its pre_tokenizer is not Llama 3's; bitgraph knows only that one, so this model's "
            "text would be split wrongly"
        )


def _types(content: Mapping[str, Any], vocab_size: int) -> dict[str, int]:
    """All tokens in the order of their ids, with GGUF's types."""
    vocabulary, added = content["model"].get("vocab"), content.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise BitgraphError("vocab or added_tokens is missing; restore the file")
    ids, types = dict(vocabulary), dict.fromkeys(vocabulary, _NORMAL)
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise BitgraphError(f"added token {reprlib.repr(token)} has no content")
        ids[token["content"]] = token.get("id")
        types[token["content"]] = _CONTROL if token.get("special") else _USER_DEFINED
    if not all(type(number) is int for number in ids.values()):
        raise BitgraphError("a token's id is not a whole number; restore the file")
    in_order = sorted(ids, key=lambda token: ids[token])
    gap = next((k for k, token in enumerate(in_order) if ids[token] != k), None)
    if gap is not None:
        raise BitgraphError(f"no token, or more than one, has the id {gap}; restore the file")
    if len(ids) > vocab_size:
        raise BitgraphError(f"it has {len(ids)} tokens, but the model's embedding {vocab_size}")
    return {token: types[token] for token in in_order}


def _merges(model: Mapping[str, Any]) -> list[str]:
    """Merges as "left right"; older files have them like that, newer ones as pairs."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise BitgraphError("merges is missing; restore the file")
    return [merge if isinstance(merge, str) else _pair(merge) for merge in merges]


def _pair(merge: object) -> str:
    if isinstance(merge, list) and len(merge) == 2 and all(isinstance(x, str) for x in merge):
        return " ".join(merge)
    raise BitgraphError(f"merge {reprlib.repr(merge)} is not two tokens; restore the file")


def _special_id(config: Mapping[str, Any], name: str, folder: Path) -> int:
    """The first of the ids, where there are several; other stop tokens go by their names."""
    value = config.get(name)
    value = value[0] if isinstance(value, list) and value else value
    if type(value) is not int or not 0 <= value < 1 << 32:
        shown = reprlib.repr(value)
        raise BitgraphError(f"{folder / 'config.json'}: {name} is {shown}, not the id of a token")
    return value


def _adds_bos(folder: Path, content: Mapping[str, Any], bos: int) -> bool:
    path = folder / "tokenizer_config.json"
    stated = read_json_object(path).get("add_bos_token") if path.exists() else None
    if isinstance(stated, bool):
        return stated
    processor = content.get("post_processor")
    return processor is None or _names_id(processor, bos)


def _names_id(processor: object, token: int) -> bool:
    """Whether a post-processor, or one within it, adds this token."""
    if isinstance(processor, dict):
        return any(_names_id(part, token) for part in processor.values())
    if isinstance(processor, list):
        return token in processor or any(_names_id(part, token) for part in processor)
    return False
