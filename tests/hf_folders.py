"""Writes Hugging Face BitNet folders, packed or as masters, for tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from bitgraph.graph.tensors import HostValue, Ternary
from bitgraph.models.bitnet.config import BitNetConfig
from bitgraph.models.bitnet.synthetic_tokenizer import synthetic_tokenizer
from bitgraph.models.bitnet.tokenizer import SPLIT_PATTERN

Tensors = dict[str, dict[str, Any]]

CONFIG = BitNetConfig(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=64,
)


def bf16(values: Any) -> dict[str, Any]:
    """Values cut to the upper half of a float32."""
    array = np.asarray(values, np.float32)
    data = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    return {"dtype": "BF16", "shape": list(array.shape), "data": data}


def plain(array: np.ndarray) -> dict[str, Any]:
    """An array as it is: float32 as F32, uint8 as U8."""
    dtype = f"{array.dtype.kind.upper()}{8 * array.itemsize}"
    return {"dtype": dtype, "shape": list(array.shape), "data": array.tobytes()}


def packed(weight: Ternary) -> np.ndarray:
    """Row by row as transformers packs: two bits each of rows r, R + r, 2 R + r, 3 R + r."""
    codes = weight.codes().astype(np.uint8) + 1
    quarter = codes.shape[0] // 4
    result = np.zeros((quarter, codes.shape[1]), np.uint8)
    for row in range(quarter):
        for place in range(4):
            result[row] |= (codes[place * quarter + row] & 3) << (2 * place)
    return result


def stored(weights: dict[str, HostValue], linear_class: str) -> Tensors:
    """Packed tensors under Hugging Face's names."""
    tensors: Tensors = {}
    for name, value in weights.items():
        full = name if name.startswith("lm_head") else f"model.{name}"
        if isinstance(value, Ternary):
            scale = 1 / value.scale if linear_class == "bitlinear" else value.scale
            tensors[full] = plain(packed(value))
            tensors[f"{full}_scale"] = bf16([scale])
        else:
            tensors[full] = bf16(value)
    return tensors


def config_keys(config: BitNetConfig, **quantization: Any) -> dict[str, Any]:
    keys = {
        "model_type": "bitnet",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "hidden_act": config.hidden_act,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.vocab_size - 3,
        "eos_token_id": [config.vocab_size - 2, config.vocab_size - 1],
    }
    return {**keys, "quantization_config": {"quant_method": "bitnet", **quantization}}


def tokenizer_json(vocab_size: int) -> dict[str, Any]:
    """The synthetic tokenizer as the library itself writes it."""
    gguf = synthetic_tokenizer(vocab_size)
    tokens = gguf["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in gguf["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens[:-3])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, ignore_merges=True))
    made.add_special_tokens(tokens[-3:])
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return json.loads(made.to_str())


def safetensors_bytes(tensors: Tensors) -> bytes:
    """A file: u64 length of the header, the header as JSON, the tensors' bytes end to end."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        offsets = [len(data), len(data) + len(tensor["data"])]
        data += tensor["data"]
        header[name] = {key: tensor[key] for key in ("dtype", "shape")} | {"data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def write_folder(
    folder: Path, tensors: Tensors, keys: dict[str, Any], vocab_size: int, shards: int = 1
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(keys))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(vocab_size)))
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        return folder
    shard_of = {
        name: f"model-{k % shards + 1:05}-of-{shards:05}.safetensors"
        for k, name in enumerate(tensors)
    }
    for shard in set(shard_of.values()):
        part = {name: tensors[name] for name in tensors if shard_of[name] == shard}
        (folder / shard).write_bytes(safetensors_bytes(part))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    return folder
