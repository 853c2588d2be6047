"""config.json of a Hugging Face BitNet folder.

Keys: those of transformers' BitNetConfig and BitNetQuantConfig.
"""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ...graph.errors import BitgraphError
from .config import BitNetConfig

CONFIG: Final = "config.json"

_TENSORS_PER_LAYER: Final = 11
_DEFAULT_ROPE_THETA: Final = 500000.0


def read_hf_config(
    keys: Mapping[str, Any], path: Path, tensors: int, activation: str | None
) -> BitNetConfig:
    """The geometry that the keys of a config.json give.

    Args:
        keys: the file's content.
        path: the file, for errors.
        tensors: how many tensors the model has; a config that calls for more layers than these
            can make is refused before anything is made for each layer.
        activation: see `load_checkpoint`.

    Raises:
        BitgraphError: a key is missing, of the wrong type or contradicts another, or asks for
            something that is not supported.
    """
    try:
        return _config(_Keys(keys), tensors, activation)
    except BitgraphError as error:
        raise BitgraphError(f"{path}: {error}") from None


def scale_is_inverse(keys: Mapping[str, Any], path: Path) -> bool:
    """Whether a packed weight's scale divides its product, as of `bitlinear`, or multiplies it.

    `autobitlinear` stores the mean magnitude of the weights, `bitlinear`, which is also meant
    where the class is not named, the inverse of it.

    Raises:
        BitgraphError: the file does not describe BitNet's packing.
    """
    quantization = keys.get("quantization_config")
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "bitnet":
        raise BitgraphError(
            f"{path}: quantization_config does not name the method bitnet, but the weights are "
            "packed; copy the whole folder of the model"
        )
    kind = quantization.get("linear_class", "bitlinear")
    if kind not in ("bitlinear", "autobitlinear"):
        shown = reprlib.repr(kind)
        raise BitgraphError(f"{path}: linear_class {shown} is not bitlinear or autobitlinear")
    return bool(kind == "bitlinear")


def _config(keys: "_Keys", tensors: int, activation: str | None) -> BitNetConfig:
    keys.check_kind()
    layers = keys.integer("num_hidden_layers")
    if layers * _TENSORS_PER_LAYER > tensors:
        raise BitgraphError(f"num_hidden_layers is {layers}, but there are only {tensors} tensors")
    heads = keys.integer("num_attention_heads")
    hidden = keys.integer("hidden_size")
    return BitNetConfig(
        vocab_size=keys.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=keys.integer("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys.integer("num_key_value_heads", heads),
        head_dim=keys.integer("head_dim", hidden // max(heads, 1)),
        max_position_embeddings=keys.integer("max_position_embeddings"),
        rms_norm_eps=keys.number("rms_norm_eps", 1e-5),
        rope_theta=keys.rope_theta(),
        hidden_act=activation or keys.activation(),
        tie_word_embeddings=keys.boolean("tie_word_embeddings"),
    )


class _Keys:
    """Typed access to the keys."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self.keys = keys

    def number(self, key: str, default: float | None = None) -> float:
        value = self.keys.get(key)
        value = default if value is None else value
        if value is None:
            raise BitgraphError(f"{key} is missing; restore the file")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BitgraphError(f"{key} is {reprlib.repr(value)}, not a number; restore the file")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if not isinstance(value, int) or abs(value) >= 1 << 32:
            raise BitgraphError(f"{key} is {reprlib.repr(value)}, not a size; restore the file")
        return value

    def boolean(self, key: str) -> bool:
        value = self.keys.get(key, False)
        if not isinstance(value, bool):
            raise BitgraphError(f"{key} is {reprlib.repr(value)}, not true or false")
        return value

    def activation(self) -> str:
        return str(self.keys.get("hidden_act", "relu2"))

    def rope_theta(self) -> float:
        """At the top, or among `rope_parameters` as transformers 5 writes it."""
        for key in ("rope_parameters", "rope_scaling"):
            rope = self.keys.get(key) or {}
            kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else rope
            if kind not in (None, "default"):
                shown = reprlib.repr(kind)
                raise BitgraphError(f"{key} asks for {shown} rotary embeddings; not supported")
        nested = self.keys.get("rope_parameters") or {}
        theta = _Keys(nested).number("rope_theta", _DEFAULT_ROPE_THETA)
        return self.number("rope_theta", theta)

    def check_kind(self) -> None:
        kind = self.keys.get("model_type")
        if kind != "bitnet":
            raise BitgraphError(
                f"model_type is {reprlib.repr(kind)}; give a BitNet b1.58 model, whose type is "
                "'bitnet'"
            )
        if self.keys.get("attention_bias"):
            raise BitgraphError("attention_bias, biases in attention, is not supported")
        quantization = self.keys.get("quantization_config")
        if isinstance(quantization, dict) and quantization.get("use_rms_norm"):
            raise BitgraphError("use_rms_norm, a norm in every linear layer, is not supported")
