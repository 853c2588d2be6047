"""LoRA adapters as PEFT keeps them: a folder of adapter_config.json and adapter_model.safetensors.

Written: the config keys that PEFT needs or that say what the adapter is, and float32 tensors.
Read: that, and every plain LoRA adapter that PEFT 0.21 saves (its config has about 45 keys), with
tensors in float32, float16 or bfloat16. What would change the model's output and is not
supported (DoRA, ranks by module, ...) is refused by name rather than ignored.

Layout: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import hashlib
import json
import math
import os
import re
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np
import safetensors
import safetensors.numpy

from ...graph.errors import BitgraphError
from ..files import atomic_write, sync_folder
from .lora import LoraAdapter, Tensor, check_fits, initial_tensors, validate

__all__ = ["LoraAdapter", "check_fits", "initial_tensors", "load_adapter", "save_adapter"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model.model."
_DIGEST = "bitgraph.sha256"

Config: TypeAlias = dict[str, object]

# Keys that, unless empty, make the adapter compute something else than plain LoRA.
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "lora_bias": "biases in LoRA layers",
    "modules_to_save": "fully trained modules",
    "trainable_token_indices": "trained token embeddings",
    "target_parameters": "LoRA on bare parameters",
    "layer_replication": "replicated layers",
}

# Initializations that leave the base weights alone; the others (PiSSA, OLoRA, ...) move a part
# of each weight into the adapter, which then fits only that changed base.
_INITIALIZATIONS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")

# Keys that exempt modules which target_modules names.
_SELECTORS = ("layers_to_transform", "exclude_modules")


class _Entry(TypedDict):
    dtype: str
    shape: list[int]
    data: bytes


_deserialize: Callable[[bytes], list[tuple[str, _Entry]]] = safetensors.deserialize


def save_adapter(folder: Path, adapter: LoraAdapter) -> None:
    """Write an adapter as a PEFT folder, which is made if needed; other files in it stay.

    A crash never leaves the config of one adapter beside the tensors of another. If the config
    stays the same, as between checkpoints of one run, only the tensors are replaced, in one
    rename. Otherwise both files are first written in full beside the old ones; then the old
    config is removed, the tensors are replaced and the new config is put in place. A crash
    between these renames leaves a folder without a config, which neither PEFT nor `load_adapter`
    takes for an adapter.

    Raises:
        BitgraphError: the adapter is not valid, or the folder cannot be written.
    """
    validate(adapter)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(
            f"the folder {folder} could not be made ({reason}); choose another place"
        ) from error
    config = json.dumps(_config_of(adapter), indent=2).encode() + b"\n"
    tensors = {f"{_PREFIX}{name}": np.ascontiguousarray(t) for name, t in adapter.tensors.items()}
    metadata = {_DIGEST: _digest(adapter.tensors)}  # one key: the library writes several unordered
    _replace_pair(folder, config, safetensors.numpy.save(tensors, metadata))


def _replace_pair(folder: Path, config: bytes, weights: bytes) -> None:
    """See `save_adapter`; leaving the `with` renames the weights first, then the config."""
    config_path, weights_path = folder / CONFIG, folder / WEIGHTS
    if _holds(config_path, config):
        with atomic_write(weights_path) as file:
            file.write(weights)
        return
    with atomic_write(config_path) as config_file, atomic_write(weights_path) as weights_file:
        for file, content in ((config_file, config), (weights_file, weights)):
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a full disk shows here, while the old adapter stands
        config_path.unlink(missing_ok=True)
        sync_folder(folder)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _config_of(adapter: LoraAdapter) -> Config:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_model or None,
        "r": adapter.rank,
        "lora_alpha": int(adapter.alpha) if adapter.alpha.is_integer() else adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(adapter.target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": adapter.rslora,
        "rank_pattern": dict(adapter.rank_pattern),
        "alpha_pattern": dict(adapter.alpha_pattern),
        "use_dora": False,
        "modules_to_save": None,
    }


def load_adapter(folder: Path) -> LoraAdapter:
    """Read a PEFT folder; what `save_adapter` wrote comes back bit for bit.

    Where the config selects modules by more than a list of names (a regular expression, layer
    indexes, exclusions), `target_modules` lists the paths of the modules that hold tensors.

    Raises:
        BitgraphError: a file is missing or damaged, the adapter is not a valid plain LoRA adapter
            of a BitNet model's layers, or its tensors differ from those that were saved.
    """
    config = _read_config(folder / CONFIG)
    tensors = _read_tensors(folder / WEIGHTS)
    try:
        return LoraAdapter(
            rank=_rank(config),
            alpha=_alpha(config),
            target_modules=_target_modules(config, tensors),
            tensors=tensors,
            base_model=_base_model(config),
            rslora=_rslora(config),
            rank_pattern=_rank_pattern(config),
            alpha_pattern=_alpha_pattern(config),
        )
    except BitgraphError as error:
        raise BitgraphError(f"{folder}: {error}") from None


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BitgraphError(f"{path} is missing; {advice}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(f"{path} could not be read ({reason}); check the path") from error


def _read_config(path: Path) -> Config:
    """Parse the config and refuse every feature that is not supported."""
    data = _read(path, "name the folder of a PEFT adapter, or save it again if saving was cut off")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BitgraphError(f"{path} is not valid JSON ({reason}); restore the file") from None
    if not isinstance(config, dict):
        raise BitgraphError(f"{path} does not hold a JSON object; restore the file")
    if config.get("peft_type") != "LORA":
        found = reprlib.repr(config.get("peft_type"))
        raise BitgraphError(f'{path}: peft_type is {found}, but only "LORA" is supported')
    for key, feature in _UNSUPPORTED.items():
        if config.get(key):
            raise BitgraphError(f"{path}: {feature} ({key}) is not supported yet; use plain LoRA")
    if config.get("bias") not in (None, "none"):
        raise BitgraphError(f'{path}: trained biases (bias) are not supported; use "none"')
    if config.get("init_lora_weights") not in _INITIALIZATIONS:
        method = reprlib.repr(config["init_lora_weights"])
        raise BitgraphError(
            f"{path}: init_lora_weights is {method}, which changes the base model's weights; "
            "convert it with PEFT's path_initial_model_for_weight_conversion"
        )
    return config


def _rank(config: Config) -> int:
    rank = config.get("r")
    if not isinstance(rank, int) or isinstance(rank, bool):
        raise BitgraphError(f"{CONFIG}: r is {reprlib.repr(rank)}, but must be a whole number")
    return rank


def _alpha(config: Config) -> float:
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise BitgraphError(f"{CONFIG}: lora_alpha is {reprlib.repr(alpha)}, but must be a number")
    return _as_float(alpha)


def _as_float(number: int | float) -> float:
    """A number of a JSON file, whose integers have no end."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _rank_pattern(config: Config) -> dict[str, int]:
    return {name: r for name, r in _pattern(config, "rank_pattern") if isinstance(r, int)}


def _alpha_pattern(config: Config) -> dict[str, float]:
    return {name: _as_float(alpha) for name, alpha in _pattern(config, "alpha_pattern")}


def _pattern(config: Config, key: str) -> Iterator[tuple[str, int | float]]:
    """Numbers by module name; PEFT also takes regular expressions there."""
    given = config.get(key) or {}
    if not isinstance(given, dict):
        raise BitgraphError(f"{CONFIG}: {key} is {reprlib.repr(given)}, but must be an object")
    kinds = int if key == "rank_pattern" else (int, float)
    for name, value in given.items():
        if not re.fullmatch(r"[\w.]+", name):
            raise BitgraphError(
                f"{CONFIG}: {key} has {reprlib.repr(name)}; only names of modules are supported"
            )
        if not isinstance(value, kinds) or isinstance(value, bool):
            found = reprlib.repr(value)
            raise BitgraphError(f"{CONFIG}: {key} gives {found} for {name}, but must give a number")
        yield name, value


def _rslora(config: Config) -> bool:
    flag = config.get("use_rslora")
    if flag is not None and not isinstance(flag, bool):
        raise BitgraphError(f"{CONFIG}: use_rslora is {reprlib.repr(flag)}, but must be a boolean")
    return flag is True


def _base_model(config: Config) -> str:
    name = config.get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def _target_modules(config: Config, tensors: dict[str, Tensor]) -> tuple[str, ...]:
    listed = config.get("target_modules")
    selective = any(config.get(key) not in (None, [], "") for key in _SELECTORS)
    if isinstance(listed, list) and not selective:
        if not all(isinstance(name, str) for name in listed):
            raise BitgraphError(f"{CONFIG}: target_modules must be a list of names")
        return tuple(listed)
    if listed is not None and not isinstance(listed, str | list):
        raise BitgraphError(f"{CONFIG}: target_modules must be a list of names")
    return tuple(sorted({name.rsplit(".lora_", 1)[0] for name in tensors}))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    advice = "copy the whole folder of the adapter"
    if path.with_name("adapter_model.bin").exists():
        advice = "adapter_model.bin is a pickle, save it again with safe_serialization=True"
    data = _read(path, advice)
    try:
        entries = _deserialize(data)
    except safetensors.SafetensorError as error:
        reason = " ".join(str(error).split())
        raise BitgraphError(f"{path} is damaged ({reason}); copy or save it again") from None
    tensors = {}
    for name, entry in entries:
        if not name.startswith(_PREFIX):
            raise BitgraphError(
                f"{path}: the tensor {name!r} is not supported; "
                f"only LoRA tensors of the model's layers are, {_PREFIX}layers.…"
            )
        tensors[name.removeprefix(_PREFIX)] = _to_float32(entry, f"{path}: {name!r}")
    if _stored_digest(data) not in (None, _digest(tensors)):
        raise BitgraphError(
            f"{path} is damaged (its tensors are not those that were saved); copy it again"
        )
    return tensors


def _to_float32(entry: _Entry, where: str) -> Tensor:
    """Exact widening of one stored tensor; an own copy, so that it can be written to."""
    data, dtype, shape = entry["data"], entry["dtype"], entry["shape"]
    if len(shape) != 2 or 0 in shape:  # the file can claim [0, 2**62], which no array can be
        raise BitgraphError(f"{where} has shape {shape}, but LoRA tensors are matrices")
    if dtype == "F32":
        values = np.frombuffer(data, "<f4").astype(np.float32)
    elif dtype == "F16":
        values = np.frombuffer(data, "<f2").astype(np.float32)
    elif dtype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        raise BitgraphError(f"{where} is stored as {dtype}; only F32, F16 and BF16 are supported")
    return values.reshape(shape)


def _stored_digest(data: bytes) -> str | None:
    """Read the digest in a parsed file's header, None in files of other writers.

    Layout: u64 header length, then the header as JSON with free text under "__metadata__".
    """
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    return metadata.get(_DIGEST)


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and little-endian values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}\n".encode())
        digest.update(np.ascontiguousarray(tensors[name], "<f4").tobytes())
    return digest.hexdigest()
