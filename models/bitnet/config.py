"""The geometry of a BitNet b1.58 model and the names and shapes of its weights.

Names are those of Hugging Face's BitNetForCausalLM without the leading "model.".
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final, NamedTuple

from ...graph.errors import BitgraphError

ACTIVATIONS: Final = ("relu2", "silu")

ARCHITECTURES: Final[Mapping[str, str | None]] = {
    "bitnet-b1.58": "relu2",
    "bitnet-25": "relu2",
    "bitnet": None,
}
"""Names of BitNet in GGUF files, with the activation each implies: `bitnet` has models of both."""


@dataclass(frozen=True)
class BitNetConfig:
    """Hyperparameters, named as in Hugging Face's config.json.

    Attributes:
        vocab_size: rows of the embedding.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward network.
        num_hidden_layers: transformer blocks.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads; each serves the same number of query heads.
        head_dim: width of a head.
        max_position_embeddings: longest context.
        rms_norm_eps: added to the mean square in every RMS norm.
        rope_theta: base of the rotary embedding's wavelengths.
        hidden_act: "relu2" (squared ReLU) or "silu", on the feed-forward gate.
        tie_word_embeddings: whether the embedding is also the output matrix.
        architecture: the name a GGUF file of the model carries.

    Raises:
        BitgraphError: the fields do not describe a model.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    hidden_act: str = "relu2"
    tie_word_embeddings: bool = True
    architecture: str = "bitnet-b1.58"

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type in (int, float):
                self._check_positive(field.name)
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads % groups:
            raise BitgraphError(
                f"num_attention_heads {heads} is not a multiple of num_key_value_heads {groups}"
            )
        if heads * self.head_dim != self.hidden_size:
            raise BitgraphError(
                f"hidden_size {self.hidden_size} is not num_attention_heads {heads} times "
                f"head_dim {self.head_dim}"
            )
        if self.head_dim % 2:
            raise BitgraphError(
                f"head_dim {self.head_dim} is odd, but rotary embedding needs pairs"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise BitgraphError(f"hidden_act {self.hidden_act!r} is not relu2 or silu")
        if self.architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise BitgraphError(f"the architecture {self.architecture!r} is not one of {known}")

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if not (math.isfinite(value) and value > 0):
            raise BitgraphError(f"{name} must be positive, not {value}")

    @property
    def key_value_size(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.num_key_value_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """Weights of the whole model, a tied output matrix counted once."""
        return sum(math.prod(shape) for shape in weight_shapes(self).values())


class Projection(NamedTuple):
    """One of the seven ternary linear layers of a block.

    Attributes:
        parent: the module it belongs to, "self_attn" or "mlp".
        shape: (out, in) under a configuration.
    """

    parent: str
    shape: Callable[[BitNetConfig], tuple[int, int]]


PROJECTIONS: Final[Mapping[str, Projection]] = MappingProxyType(
    {
        "q_proj": Projection("self_attn", lambda c: (c.hidden_size, c.hidden_size)),
        "k_proj": Projection("self_attn", lambda c: (c.key_value_size, c.hidden_size)),
        "v_proj": Projection("self_attn", lambda c: (c.key_value_size, c.hidden_size)),
        "o_proj": Projection("self_attn", lambda c: (c.hidden_size, c.hidden_size)),
        "gate_proj": Projection("mlp", lambda c: (c.intermediate_size, c.hidden_size)),
        "up_proj": Projection("mlp", lambda c: (c.intermediate_size, c.hidden_size)),
        "down_proj": Projection("mlp", lambda c: (c.hidden_size, c.intermediate_size)),
    }
)
"""The projections of a block by their short name, in the order of the forward pass."""


def is_projection(weight: str) -> bool:
    """Whether a weight is a ternary matrix: "layers.0.mlp.up_proj.weight" is."""
    return weight.endswith("_proj.weight")


def projection_shapes(config: BitNetConfig) -> dict[str, tuple[int, int]]:
    """(out, in) of every projection of a model by path, "layers.0.self_attn.q_proj" first."""
    return {
        f"layers.{layer}.{projection.parent}.{name}": projection.shape(config)
        for layer in range(config.num_hidden_layers)
        for name, projection in PROJECTIONS.items()
    }


def layer_shapes(config: BitNetConfig) -> dict[str, tuple[int, ...]]:
    """Names, after "layers.N.", and shapes of a block's weights."""
    norms: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (config.hidden_size,),
        "post_attention_layernorm.weight": (config.hidden_size,),
        "self_attn.attn_sub_norm.weight": (config.hidden_size,),
        "mlp.ffn_sub_norm.weight": (config.intermediate_size,),
    }
    matrices = {
        f"{projection.parent}.{name}.weight": projection.shape(config)
        for name, projection in PROJECTIONS.items()
    }
    return norms | matrices


def weight_shapes(config: BitNetConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of a model."""
    vocabulary = (config.vocab_size, config.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": vocabulary}
    for layer in range(config.num_hidden_layers):
        for name, shape in layer_shapes(config).items():
            shapes[f"layers.{layer}.{name}"] = shape
    shapes["norm.weight"] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = vocabulary
    return shapes
