"""A LoRA adapter in memory: what makes it valid, which models it fits, how training starts it."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ...graph.errors import BitgraphError

Tensor: TypeAlias = npt.NDArray[np.float32]
Number = TypeVar("Number", int, float)

_NAME = re.compile(r"(layers\.[0-9]+(?:\.[a-zA-Z_][a-zA-Z0-9_]*)+)\.lora_([AB])\.weight")


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """Low-rank updates of linear layers: y += scaling * (x A^T) B^T, with x unquantized.

    Attributes:
        rank: r, the inner width of every update.
        alpha: the numerator of `scaling`.
        target_modules: names of the adapted modules as PEFT matches them: a module is meant when
            its path is the name or ends in "." + name ("q_proj", "layers.0.mlp.up_proj").
        tensors: per adapted module `layers.N.….lora_A.weight` [r, in] and `….lora_B.weight`
            [out, r], float32; the names are PEFT's without "base_model.model.model.".
        base_model: the model that was adapted, a hub name or a path; "" if unknown.
        rslora: rank-stabilized scaling, alpha / sqrt(r).
        rank_pattern, alpha_pattern: other ranks and alphas of some modules, named as targets are;
            the first that fits counts.

    Raises:
        BitgraphError: the fields contradict each other or hold non-finite values.
    """

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    tensors: dict[str, Tensor]
    base_model: str = ""
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        validate(self)

    @property
    def scaling(self) -> float:
        """Factor on the low-rank product, where no pattern says otherwise."""
        return self._scaling(self.rank, self.alpha)

    def rank_of(self, module: str) -> int:
        """Inner width of a module's update."""
        return _setting(module, self.rank_pattern, self.rank)

    def alpha_of(self, module: str) -> float:
        """Numerator of a module's scaling."""
        return _setting(module, self.alpha_pattern, self.alpha)

    def scaling_of(self, module: str) -> float:
        """Factor on a module's low-rank product: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        return self._scaling(self.rank_of(module), self.alpha_of(module))

    def _scaling(self, rank: int, alpha: float) -> float:
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    @property
    def modules(self) -> list[str]:
        """Paths of the adapted modules, layer by layer."""
        paths = {match[1] for name in self.tensors if (match := _NAME.fullmatch(name))}
        return sorted(paths, key=_layer_order)

    def __eq__(self, other: object) -> bool:
        """Compare the settings and, bit for bit, the tensors."""
        if not isinstance(other, LoraAdapter):
            return NotImplemented
        return _settings(self) == _settings(other) and _bits(self) == _bits(other)


def validate(adapter: LoraAdapter) -> None:
    """Check what `LoraAdapter` promises; again before saving, because arrays can change.

    Raises:
        BitgraphError: it does not hold; the sentence names the first field or tensor at fault.
    """
    for rank in (adapter.rank, *adapter.rank_pattern.values()):
        if rank < 1:
            raise BitgraphError(f"the rank is {rank}, but must be at least 1")
    for alpha in (adapter.alpha, *adapter.alpha_pattern.values()):
        if not 0 < alpha < math.inf:
            raise BitgraphError(f"alpha is {alpha}, but must be a positive number")
    if not adapter.tensors:
        raise BitgraphError("the adapter holds no tensors")
    for name, tensor in adapter.tensors.items():
        _check_tensor(name, tensor, adapter)
    for module in adapter.modules:
        for half in ("A", "B"):
            if f"{module}.lora_{half}.weight" not in adapter.tensors:
                raise BitgraphError(f"the adapter's {module} has no lora_{half} tensor")
    _check_targets(adapter)


def _check_tensor(name: str, tensor: Tensor, adapter: LoraAdapter) -> None:
    match = _NAME.fullmatch(name)
    if match is None:
        raise BitgraphError(
            f"the tensor {name!r} is not one of a LoRA adapter, "
            "whose names read layers.N.(module).lora_A.weight or lora_B.weight"
        )
    if tensor.dtype != np.float32:
        raise BitgraphError(f"{name} is {tensor.dtype}, but must be float32")
    rank, axis = adapter.rank_of(match[1]), 0 if match[2] == "A" else 1
    if tensor.ndim != 2 or tensor.shape[axis] != rank or tensor.size == 0:
        wanted = "[rank, in]" if match[2] == "A" else "[out, rank]"
        raise BitgraphError(
            f"{name} has shape {list(tensor.shape)}, but must be {wanted} with rank {rank}"
        )
    if not np.isfinite(tensor).all():
        raise BitgraphError(
            f"{name} holds values that are not finite; train with a lower learning rate"
        )


def _check_targets(adapter: LoraAdapter) -> None:
    modules = adapter.modules
    for module in modules:
        if not _is_target(module, adapter.target_modules):
            raise BitgraphError(
                f"the adapter holds tensors for {module}, which its target modules do not name; "
                "correct the names"
            )
    for target in (*adapter.target_modules, *adapter.rank_pattern, *adapter.alpha_pattern):
        if not any(_is_target(module, (target,)) for module in modules):
            raise BitgraphError(
                f"the adapter holds no tensors for its target module {target!r}; correct the name"
            )


def check_fits(adapter: LoraAdapter, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Check that the adapter belongs to a model.

    Args:
        adapter: the adapter.
        shapes: (out, in) features of the model's linear modules by path, such as
            "layers.0.self_attn.q_proj".

    Raises:
        BitgraphError: the adapter holds a module that the model lacks or that has other features
            there, or lacks one that its target modules name; the sentence names the first such.
    """
    origin = f" (it was trained on {adapter.base_model!r})" if adapter.base_model else ""
    advice = f"; the adapter is for another model{origin}"
    modules = adapter.modules
    for module in modules:
        if module not in shapes:
            raise BitgraphError(f"the model has no {module}, which the adapter changes{advice}")
        features_in = adapter.tensors[f"{module}.lora_A.weight"].shape[1]
        features_out = adapter.tensors[f"{module}.lora_B.weight"].shape[0]
        if (features_out, features_in) != tuple(shapes[module]):
            wanted_out, wanted_in = shapes[module]
            raise BitgraphError(
                f"the adapter's {module} takes {features_in} features to {features_out}, "
                f"the model's takes {wanted_in} to {wanted_out}{advice}"
            )
    for module in sorted(shapes.keys() - set(modules), key=_layer_order):
        if _is_target(module, adapter.target_modules):
            raise BitgraphError(f"the adapter holds no tensors for the model's {module}{advice}")


def initial_tensors(
    shapes: Mapping[str, tuple[int, int]], rank: int | Mapping[str, int], seed: int
) -> dict[str, Tensor]:
    """Tensors that training starts from: A uniform in +-1/sqrt(in), B zero.

    These are the distributions of PEFT's default (Kaiming uniform with a = sqrt(5)), not its
    random numbers. Each module draws from its own generator, seeded by the seed and the module's
    path, so its start depends neither on the order of `shapes` nor on the other modules.

    Args:
        shapes: (out, in) features of the modules to adapt, by path.
        rank: r of all modules, or by module; at least 1.
        seed: any integer from 0.

    Raises:
        BitgraphError: the rank or the seed is out of range.
    """
    ranks = dict.fromkeys(shapes, rank) if isinstance(rank, int) else rank
    if (least := min(ranks.values(), default=1)) < 1:
        raise BitgraphError(f"the LoRA rank is {least}, but must be at least 1")
    if seed < 0:
        raise BitgraphError(f"the seed is {seed}, but must not be negative")
    tensors: dict[str, Tensor] = {}
    for module, (features_out, features_in) in shapes.items():
        path = int.from_bytes(hashlib.sha256(module.encode()).digest(), "little")
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, path])))
        bound = np.float32(1 / math.sqrt(features_in))
        unit = rng.random((ranks[module], features_in), dtype=np.float32)
        tensors[f"{module}.lora_A.weight"] = (2 * unit - 1) * bound
        tensors[f"{module}.lora_B.weight"] = np.zeros((features_out, ranks[module]), np.float32)
    return tensors


def _setting(module: str, pattern: Mapping[str, Number], default: Number) -> Number:
    return next((v for name, v in pattern.items() if _is_target(module, (name,))), default)


def _is_target(module: str, targets: tuple[str, ...]) -> bool:
    """PEFT's rule, whose paths start at the model with its head: "model.layers.…"."""
    return any(f".model.{module}".endswith(f".{target}") for target in targets)


def _layer_order(module: str) -> list[str]:
    """Sort key that puts layer 2 before layer 10."""
    return [part.zfill(9) if part.isdigit() else part for part in module.split(".")]


def _settings(adapter: LoraAdapter) -> tuple[object, ...]:
    a = adapter
    patterns = (dict(a.rank_pattern), dict(a.alpha_pattern))
    return (a.rank, a.alpha, a.target_modules, a.base_model, a.rslora, patterns)


def _bits(adapter: LoraAdapter) -> dict[str, tuple[tuple[int, ...], bytes]]:
    return {name: (tensor.shape, tensor.tobytes()) for name, tensor in adapter.tensors.items()}
