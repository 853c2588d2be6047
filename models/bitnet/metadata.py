"""The key/value pairs of a GGUF file that describe a BitNet model.

Keys: llama.cpp's, and those of Microsoft's converter; each is prefixed with the architecture.
"""

import reprlib
from collections.abc import Mapping
from typing import Final

from ...graph.errors import BitgraphError
from ..gguf import GgufFile, MetadataValue
from .config import ARCHITECTURES, BitNetConfig

FILE_TYPE_I2_S: Final = 40

_DEFAULT_ROPE_THETA: Final = 10000.0
_TENSORS_PER_LAYER: Final = 11
_PLAIN_ROPE: Final[Mapping[str, tuple[object, ...]]] = {
    "type": ("none", "linear"),
    "factor": (1.0,),
    "attn_factor": (1.0,),
    "finetuned": (True, False),
}
"""Values of `rope.scaling.*` that leave the positions as they are."""


def read_config(file: GgufFile, activation: str | None) -> BitNetConfig:
    """The geometry a file's keys give; the vocabulary's size is the embedding's.

    Args:
        file: the file.
        activation: see `load_checkpoint`.

    Raises:
        BitgraphError: a key is missing, of the wrong type or contradicts another, or asks for
            something that is not supported.
    """
    try:
        return _config(_Keys(file), activation)
    except BitgraphError as error:
        raise BitgraphError(f"{file.path}: {error}") from None


def write_config(
    config: BitNetConfig, tokenizer_metadata: Mapping[str, MetadataValue], name: str
) -> dict[str, MetadataValue]:
    """The key/value pairs of a model file; `name` is its `general.name`."""
    architecture = config.architecture
    geometry: dict[str, MetadataValue] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "rope.dimension_count": config.head_dim,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_theta,
    }
    if config.hidden_act != ARCHITECTURES[architecture]:
        geometry["hidden_activation"] = config.hidden_act
    return {
        "general.architecture": architecture,
        "general.name": name,
        **{f"{architecture}.{key}": value for key, value in geometry.items()},
        "general.file_type": FILE_TYPE_I2_S,
        **tokenizer_metadata,
        "general.quantization_version": 2,
    }


def _config(keys: "_Keys", activation: str | None) -> BitNetConfig:
    keys.check_rope_scaling()
    return BitNetConfig(
        vocab_size=keys.vocab_size(),
        hidden_size=keys.integer("embedding_length"),
        intermediate_size=keys.integer("feed_forward_length"),
        num_hidden_layers=keys.layers(),
        num_attention_heads=keys.integer("attention.head_count"),
        num_key_value_heads=keys.key_value_heads(),
        head_dim=keys.head_dim(),
        max_position_embeddings=keys.integer("context_length"),
        rms_norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        rope_theta=keys.number("rope.freq_base", _DEFAULT_ROPE_THETA),
        hidden_act=activation or keys.activation(),
        tie_word_embeddings="output.weight" not in keys.file.tensors,
        architecture=keys.architecture,
    )


class _Keys:
    """Typed access to the keys under a file's architecture."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        architecture = file.metadata.get("general.architecture")
        if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
            raise BitgraphError(
                f"the architecture {architecture!r} is not supported; give a BitNet b1.58 model, "
                f"whose architecture is one of {', '.join(ARCHITECTURES)}"
            )
        self.architecture = architecture

    def error(self, key: str, message: str) -> BitgraphError:
        return BitgraphError(f"{self.architecture}.{key} {message}")

    def get(self, key: str) -> MetadataValue | None:
        return self.file.metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        value = default if value is None else value
        if value is None:
            raise self.error(key, "is missing; convert the model again")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, "is not a number; convert the model again")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if not isinstance(value, int):
            raise self.error(key, f"is {value}, not a whole number; convert the model again")
        return value

    def vocab_size(self) -> int:
        embedding = self.file.tensors.get("token_embd.weight")
        if embedding is None:
            raise BitgraphError("the tensor 'token_embd.weight' is missing")
        rows = embedding.shape[0]
        stated = self.integer("vocab_size", rows)
        if stated != rows:
            raise self.error("vocab_size", f"is {stated}, but token_embd.weight has {rows} rows")
        return rows

    def layers(self) -> int:
        """Checked against the tensors there are before anything is made for each layer."""
        layers, tensors = self.integer("block_count"), len(self.file.tensors)
        if layers * _TENSORS_PER_LAYER > tensors:
            raise self.error("block_count", f"is {layers}, but the file has only {tensors} tensors")
        return layers

    def key_value_heads(self) -> int:
        return self.integer("attention.head_count_kv", self.integer("attention.head_count"))

    def head_dim(self) -> int:
        heads = max(self.integer("attention.head_count"), 1)
        return self.integer("rope.dimension_count", self.integer("embedding_length") // heads)

    def activation(self) -> str:
        activation = self.get("hidden_activation")
        if activation is None:
            activation = ARCHITECTURES[self.architecture]
        if activation is None:
            raise self.error(
                "hidden_activation",
                "is missing, and models of this architecture exist with either activation; "
                "say which, relu2 or silu",
            )
        if not isinstance(activation, str):
            raise self.error("hidden_activation", "is not a name; convert the model again")
        return activation

    def check_rope_scaling(self) -> None:
        prefix = f"{self.architecture}.rope.scaling."
        for key, value in self.file.metadata.items():
            if not key.startswith(prefix):
                continue
            plain = _PLAIN_ROPE.get(key.removeprefix(prefix), ())
            if not isinstance(value, str | int | float) or value not in plain:
                raise BitgraphError(
                    f"{key!r} is {reprlib.repr(value)}, but scaled rotary embeddings are not "
                    "supported"
                )
