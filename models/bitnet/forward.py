"""BitNet b1.58 as a graph.

The token axis is flat: examples lie end to end on it, and attention is told for every token which
keys it may see. One function makes the body; what stands behind it makes the loss, the logits or a
decoding step. Order of operations: Hugging Face's BitNetForCausalLM.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...graph.build import GraphBuilder
from ...graph.ir import Alias, Graph, Role, Value
from ...graph.tensors import Array, HostValue, Ternary
from ...graph.types import DType, TensorType, tensor
from ...passes.cleanup import EliminateDeadCode
from .config import BitNetConfig, is_projection, weight_shapes

FREQUENCIES = "rope.frequencies"
"""Name of the weight that holds the rotary frequencies."""

FIRST_SLOT = "cache.first"
"""Name of the constant that holds each sequence's first slot of the cache: 0 for a lone one."""

SEEN = "seen"
"""Name of the state that flags the tokens of a text, f32 [vocabulary], for the op `penalize`."""

MARK = "seen.mark"
"""Name of the constant that holds the number 1: a flag."""

STATES = ("token", "position", "stopped")
"""States of the decoding graph, i32 [sequences]: what comes next, where, whether a stop came."""

SLOT = "slot"
"""Name of one more state where there are several sequences: the slot of the cache for `token`."""

STOPS = 8
"""Stop tokens that the graphs which sample test for."""


def rope_frequencies(config: BitNetConfig) -> Array:
    """theta^(-2 i / head_dim) for i < head_dim / 2, f32, in the order PyTorch computes it."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies: Array = np.float32(1) / np.float32(config.rope_theta) ** exponent
    return frequencies


def graph_weights(config: BitNetConfig, weights: Mapping[str, HostValue]) -> dict[str, HostValue]:
    """All values that the graphs of a model want: its weights and the rotary frequencies."""
    values = {name: weights[name] for name in weight_shapes(config)}
    constants = {FIRST_SLOT: np.zeros(1, np.int32), MARK: np.ones(1, np.float32)}
    return {**values, FREQUENCIES: rope_frequencies(config), **constants}


def loss_graph(config: BitNetConfig, tokens: int, embedding: DType = DType.F16) -> Graph:
    """Mean loss over a flat batch.

    Inputs, each with `tokens` entries: tokens, positions, first, last (keys that a token may attend
    to, inclusive), labels (the next token, negative for none), weights (f32, what a label counts).
    Outputs: loss, the sum of weights times negative log-likelihoods, and nll for each token.
    """
    model = _Model("bitnet_loss", config, tokens, embedding)
    labels = model.input("labels", "i32", tokens)
    weights = model.input("weights", "f32", tokens)
    hidden = model.body()
    b = model.builder
    with b.scope("loss"):
        nll, _ = b.ops(
            "linear_cross_entropy", hidden, model.head(), labels, names=("nll", "log_sum_exp")
        )
        loss = b.op("dot", nll, weights, name="loss")
    return b.finish((loss, nll))


def logits_graph(config: BitNetConfig, tokens: int, embedding: DType = DType.F16) -> Graph:
    """Logits [tokens, vocabulary] of a flat batch; inputs as in `loss_graph`, without labels."""
    model = _Model("bitnet_logits", config, tokens, embedding)
    hidden = model.body()
    with model.builder.scope("head"):
        logits = model.builder.op("matmul", hidden, model.head(), transpose_b=True, name="logits")
    return model.builder.finish((logits,))


def layer_graph(config: BitNetConfig, layer: int, tokens: int) -> Graph:
    """One block alone, from its input ``x`` [tokens, hidden] to its output, for close comparison.

    The other inputs are those of `loss_graph` without tokens, labels and weights.
    """
    model = _Model("bitnet_layer", config, tokens, DType.F32)
    x = model.input("x", "f32", tokens, config.hidden_size)
    inputs = (model.input(name, "i32", tokens) for name in ("positions", "first", "last"))
    out = model.layer(layer, x, model.context(*inputs))
    return EliminateDeadCode()(model.builder.finish((out,)))


def prompt_graph(
    config: BitNetConfig,
    tokens: int,
    context: int,
    embedding: DType = DType.F16,
    penalized: bool = False,
    sequences: int = 1,
) -> Graph:
    """Feeds a prompt through a key-value cache and samples the token behind it.

    Inputs: tokens, positions, first and last as in `loss_graph`, where first and last count slots
    of the cache; slots (i32 [tokens], where each token is kept), row (i32 [1], the last token of
    the prompt), end (i32 [1], the position behind it), the scalars of the op `sample`, and stops
    (i32 [`STOPS`], of the op `until_stop`). With `penalized`, the tokens that the state `SEEN`
    flags are made less probable, by the scalars of the op `penalize`; this is for one sequence
    alone. Output: next (i32 [1]). In
    place: the caches, and `STATES`, what `decode_graph` goes on from.

    Several `sequences` have their prompts end to end in `tokens`, and `context` slots each, one
    after the other in one cache. Row, end and next then have an entry for each, and two inputs
    more are i32 [sequences]: ended (1 for a sequence that is not there), and behind (the slot for
    its next token, kept in the state `SLOT`).
    """
    model = _Model("bitnet_prompt", config, tokens, embedding, sequences)
    model.cache(context, model.input("slots", "i32", tokens))
    hidden = model.body()
    with model.builder.scope("head"):
        last = model.builder.op("gather_rows", hidden, model.input("row", "i32", sequences))
    if sequences == 1:
        ended = model.builder.add_input(FIRST_SLOT, tensor("i32", 1), Role.WEIGHT)
        behind = None
    else:
        ended = model.input("ended", "i32", sequences)
        behind = model.input("behind", "i32", sequences)
    seen = model.seen() if penalized else None
    return model.sampled(last, model.input("end", "i32", sequences), ended, seen, behind)


def decode_graph(
    config: BitNetConfig,
    context: int,
    embedding: DType = DType.F16,
    penalized: bool = False,
    sequences: int = 1,
) -> Graph:
    """One token through the cache: its number and its position are states, and move on in place.

    Inputs: the scalars of the op `sample`, and stops; `penalized` as in `prompt_graph`, and the
    token is flagged too. Output: next (i32 [1]), which is -1 once a stop token was sampled. So
    steps can follow each other without the host. With several `sequences`, as in `prompt_graph`,
    it is one token of each.
    """
    model = _Model("bitnet_decode", config, sequences, embedding, sequences)
    position = model.state("position")
    slot = position if sequences == 1 else model.state(SLOT)
    model.cache(context, slot)
    first = model.builder.add_input(FIRST_SLOT, tensor("i32", sequences), Role.WEIGHT)
    token, stopped = model.state("token"), model.state("stopped")
    hidden = model.body(token, model.context(position, first, slot))
    with model.builder.scope("head"):
        end = model.builder.op("add_ids", position, by=1, name="end")
        behind = None
        if sequences > 1:
            behind = model.builder.op("add_ids", slot, by=1, name="behind")
    seen = model.mark_seen(token) if penalized else None
    return model.sampled(hidden, end, stopped, seen, behind)


def cache_shapes(config: BitNetConfig, slots: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the key-value caches of `decode_graph`, all f32."""
    shape = (slots, config.num_key_value_heads, config.head_dim)
    return {
        _cache_name(layer, kind): shape
        for layer in range(config.num_hidden_layers)
        for kind in ("keys", "values")
    }


def _cache_name(layer: int, kind: str) -> str:
    return f"layers.{layer}.self_attn.{kind}.cache"


@dataclass
class _Context:
    """What every layer reads: rotary table, keys each token sees, slots of the cache."""

    table: Value
    first: Value
    last: Value
    slots: Value | None


class _Model:
    """Builds the parts of one model into one graph."""

    def __init__(
        self, name: str, config: BitNetConfig, tokens: int, embedding: DType, sequences: int = 1
    ) -> None:
        self.builder = GraphBuilder(name)
        self.config = config
        self.tokens = tokens
        self.sequences = sequences
        self.kept: list[tuple[Value, Value]] = []
        self._states: dict[str, Value] = {}
        self._cache_of: dict[str, Value] = {}
        self._slots: Value | None = None
        self._weights = {
            name: self.builder.add_input(name, _weight_type(name, shape, embedding), Role.WEIGHT)
            for name, shape in weight_shapes(config).items()
        }
        self._frequencies = self.builder.add_input(
            FREQUENCIES, tensor("f32", config.head_dim // 2), Role.WEIGHT
        )

    def input(self, name: str, dtype: str, *shape: int) -> Value:
        return self.builder.add_input(name, tensor(dtype, *shape), Role.INPUT)

    def state(self, name: str) -> Value:
        """A whole number of each sequence that lives from step to step."""
        return self._states.get(name) or self._define_state(name, tensor("i32", self.sequences))

    def cache(self, context: int, slots: Value) -> None:
        """Keep keys and values, each token in one of `slots`; a sequence has `context` of them."""
        for name, shape in cache_shapes(self.config, self.sequences * context).items():
            self._cache_of[name] = self._define_state(name, tensor("f32", *shape))
        self._slots = slots

    def seen(self) -> Value:
        """A flag for each token of the vocabulary."""
        return self._define_state(SEEN, tensor("f32", self.config.vocab_size))

    def mark_seen(self, token: Value) -> Value:
        """The flags with that of one token set, in place."""
        old = self.seen()
        mark = self.builder.add_input(MARK, tensor("f32", 1), Role.WEIGHT)
        with self.builder.scope("head"):
            new = self.builder.op("write_rows", old, mark, token, name=f"{SEEN}.new")
        self.kept.append((new, old))
        return new

    def _define_state(self, name: str, type: TensorType) -> Value:
        self._states[name] = self.builder.add_input(name, type, Role.STATE)
        return self._states[name]

    def head(self) -> Value:
        """The output matrix [vocabulary, hidden]."""
        tied = self.config.tie_word_embeddings
        return self._weights["embed_tokens.weight" if tied else "lm_head.weight"]

    def body(self, tokens: Value | None = None, context: _Context | None = None) -> Value:
        """Hidden states [tokens, hidden] after the final norm; tokens are an input unless given."""
        b = self.builder
        tokens = tokens or self.input("tokens", "i32", self.tokens)
        with b.scope("embedding"):
            x = b.op("gather_rows", self._weights["embed_tokens.weight"], tokens, name="embedded")
        context = context or self.context(
            *(self.input(name, "i32", self.tokens) for name in ("positions", "first", "last"))
        )
        for layer in range(self.config.num_hidden_layers):
            x = self.layer(layer, x, context)
        with b.scope("norm"):
            return self._norm("norm", x, "normed")

    def context(self, positions: Value, first: Value, last: Value) -> _Context:
        """What all layers read, made once."""
        with self.builder.scope("embedding"):
            table = self.builder.op("rope_table", positions, self._frequencies, name="rope_table")
        return _Context(table, first, last, self._slots)

    def sampled(
        self,
        hidden: Value,
        end: Value,
        stopped: Value,
        seen: Value | None,
        behind: Value | None,
    ) -> Graph:
        """The graph that samples after one row of hidden states of each sequence.

        The new token is at the position `end`, and in the slot `behind` where that is a state.
        """
        b = self.builder
        with b.scope("head"):
            logits = b.op("matmul", hidden, self.head(), transpose_b=True, name="logits")
            if seen is not None:
                factors = (self.input(name, "f32") for name in ("penalty", "inverse"))
                logits = b.op("penalize", logits, seen, *factors, name="penalized")
            scalars = (
                self.input("temperature", "f32"),
                self.input("top_k", "i32"),
                self.input("top_p", "f32"),
                self.input("reach", "f32"),
                self.input("seed", "u32"),
            )
            stops = self.input("stops", "i32", STOPS)
            chosen = b.op("sample", logits, *scalars, end, name="token.new")
            following, stopped = b.ops(
                "until_stop", chosen, stops, stopped, names=("next", "stopped.now")
            )
            moved = [
                chosen,
                b.op("add_ids", end, by=0, name="position.new"),
                b.op("add_ids", stopped, by=0, name="stopped.new"),
            ]
            states = [self.state(name) for name in STATES]
            if behind is not None:
                moved.append(b.op("add_ids", behind, by=0, name=f"{SLOT}.new"))
                states.append(self.state(SLOT))
        in_place = [*self.kept, *zip(moved, states, strict=True)]
        aliases = tuple(Alias(new.name, old.name) for new, old in in_place)
        return b.finish((following, *(new for new, _ in in_place)), aliases)

    def layer(self, layer: int, x: Value, context: _Context) -> Value:
        """One block of the transformer."""
        prefix = f"layers.{layer}"
        b = self.builder
        with b.scope(prefix):
            with b.scope("self_attn"):
                h = self._norm(f"{prefix}.input_layernorm", x, f"{prefix}.attn_in")
                mixed = self._attention(layer, h, context)
                x = b.op("add", x, mixed, name=f"{prefix}.attn_out")
            with b.scope("mlp"):
                h = self._norm(f"{prefix}.post_attention_layernorm", x, f"{prefix}.mlp_in")
                return b.op("add", x, self._mlp(prefix, h), name=f"{prefix}.out")

    def _attention(self, layer: int, h: Value, context: _Context) -> Value:
        b, c, prefix = self.builder, self.config, f"layers.{layer}.self_attn"
        codes = b.op("quantize", h, name=f"{prefix}.codes")
        heads = []
        for short, count in (
            ("q", c.num_attention_heads),
            ("k", c.num_key_value_heads),
            ("v", c.num_key_value_heads),
        ):
            flat = self._project(f"{prefix}.{short}_proj", codes)
            heads.append(
                b.op("reshape", flat, row=(count, c.head_dim), name=f"{prefix}.{short}_heads")
            )
        q = b.op("rope", heads[0], context.table, inverse=False, name=f"{prefix}.q_rope")
        k = b.op("rope", heads[1], context.table, inverse=False, name=f"{prefix}.k_rope")
        v = heads[2]
        if context.slots is not None:
            k = self._remember(_cache_name(layer, "keys"), k, context.slots)
            v = self._remember(_cache_name(layer, "values"), v, context.slots)
        out, _ = b.ops(
            "attention", q, k, v, context.first, context.last,
            names=(f"{prefix}.mixed", f"{prefix}.log_sum_exp"),
        )  # fmt: skip
        merged = b.op("reshape", out, row=(c.hidden_size,), name=f"{prefix}.merged")
        normed = self._norm(f"{prefix}.attn_sub_norm", merged, f"{prefix}.sub_normed")
        return self._project(
            f"{prefix}.o_proj", b.op("quantize", normed, name=f"{prefix}.sub_codes")
        )

    def _remember(self, name: str, rows: Value, slots: Value) -> Value:
        old = self._cache_of[name]
        new = self.builder.op("write_rows", old, rows, slots, name=f"{name}.new")
        self.kept.append((new, old))
        return new

    def _mlp(self, prefix: str, h: Value) -> Value:
        b, prefix = self.builder, f"{prefix}.mlp"
        codes = b.op("quantize", h, name=f"{prefix}.codes")
        gate = self._project(f"{prefix}.gate_proj", codes)
        up = self._project(f"{prefix}.up_proj", codes)
        activation = "squared_relu" if self.config.hidden_act == "relu2" else "silu"
        active = b.op(activation, gate, name=f"{prefix}.active")
        gated = b.op("mul", active, up, name=f"{prefix}.gated")
        normed = self._norm(f"{prefix}.ffn_sub_norm", gated, f"{prefix}.sub_normed")
        return self._project(
            f"{prefix}.down_proj", b.op("quantize", normed, name=f"{prefix}.sub_codes")
        )

    def _project(self, module: str, codes: Value) -> Value:
        weight = self._weights[f"{module}.weight"]
        return self.builder.op("ternary_matmul", codes, weight, name=module)

    def _norm(self, module: str, x: Value, name: str) -> Value:
        weight = self._weights[f"{module}.weight"]
        return self.builder.op("rms_norm", x, weight, name=name, eps=self.config.rms_norm_eps)


def _weight_type(name: str, shape: tuple[int, ...], embedding: DType) -> TensorType:
    if is_projection(name):
        return TensorType(DType.T2, shape)
    return TensorType(embedding if len(shape) == 2 else DType.F32, shape)


def embedding_dtype(weights: Mapping[str, HostValue]) -> DType:
    """The element type of a model's embedding, for the graphs that read it."""
    table = weights["embed_tokens.weight"]
    assert not isinstance(table, Ternary), "an embedding is not ternary"
    return DType.F16 if np.asarray(table).dtype == np.float16 else DType.F32
