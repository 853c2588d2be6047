"""What a run trains: adapters beside a frozen model, or all weights of one.

A subject says how params come into the graph, what they begin with, and what is kept of them: in
a checkpoint, bit for bit, and at the end, for use.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import safetensors.numpy

from ...graph.errors import BitgraphError
from ...graph.tensors import Array, HostValue
from ...passes.manager import Pass
from ...passes.masters import Masters
from ..adapters.lora import initial_tensors
from ..adapters.peft import CONFIG, WEIGHTS, load_adapter, save_adapter
from ..bitnet.config import BitNetConfig, projection_shapes, weight_shapes
from ..bitnet.gguf_checkpoint import save_checkpoint
from ..bitnet.masters import model_weights
from ..files import atomic_write, make_folder
from ..gguf import MetadataValue
from .options import TrainingOptions

BEST = "best"
"""Folder, below the run's, of the result with the smallest evaluation loss."""

MASTERS = "masters.safetensors"
"""File, in a checkpoint, of the float weights."""

MODEL = "model.gguf"
"""File, in `BEST`, of a model whose weights are all trained."""


class Subject(Protocol):
    """What is trained.

    Attributes:
        noun: what it is called in messages.
    """

    @property
    def noun(self) -> str:
        """See above."""

    def params(self, training: bool = True) -> Pass:
        """The pass that brings the params into the graph of the loss, for steps or evaluation."""

    def initial(
        self, config: BitNetConfig, weights: Mapping[str, HostValue]
    ) -> Mapping[str, Array]:
        """What the params begin with, by name.

        Args:
            config: the model's geometry.
            weights: as training was given them.
        """

    def save(self, folder: Path, tensors: Mapping[str, Array]) -> None:
        """Keep the params in the folder of a checkpoint.

        Raises:
            BitgraphError: a file cannot be written.
        """

    def load(self, folder: Path) -> Mapping[str, Array]:
        """What `save` kept, bit for bit.

        Raises:
            BitgraphError: a file is missing or damaged.
        """

    def publish(self, place: Path, tensors: Mapping[str, Array]) -> None:
        """Write the result in the form that it is used in.

        Raises:
            BitgraphError: a file cannot be written.
        """

    def files(self, place: Path) -> tuple[Path, ...]:
        """The files that `publish` writes."""

    def best(self, folder: Path) -> Path:
        """The place of the best result in the folder of a run."""


@dataclass(frozen=True)
class Adapters:
    """LoRA adapters, kept as a PEFT folder both in checkpoints and at the end.

    Attributes:
        options: of the run.
        base_model: what the adapter says it is for.
    """

    options: TrainingOptions
    base_model: str = ""
    noun: ClassVar[str] = "adapter"

    def params(self, training: bool = True) -> Pass:
        """The pass `lora`, without dropout in evaluation."""
        lora = self.options.lora()
        return lora if training else replace(lora, dropout=0.0)

    def initial(
        self, config: BitNetConfig, weights: Mapping[str, HostValue]
    ) -> Mapping[str, Array]:
        """Adapters that change nothing yet."""
        lora = self.options.lora()
        shapes = {
            module: shape
            for module, shape in projection_shapes(config).items()
            if module.rsplit(".", 1)[-1] in self.options.targets
        }
        ranks = {module: lora.rank_of(module) for module in shapes}
        return initial_tensors(shapes, ranks, self.options.seed)

    def save(self, folder: Path, tensors: Mapping[str, Array]) -> None:
        """Write a PEFT folder."""
        save_adapter(folder, self.options.adapter(dict(tensors), self.base_model))

    def load(self, folder: Path) -> Mapping[str, Array]:
        """Read a PEFT folder."""
        return load_adapter(folder).tensors

    def publish(self, place: Path, tensors: Mapping[str, Array]) -> None:
        """Write a PEFT folder."""
        self.save(place, tensors)

    def files(self, place: Path) -> tuple[Path, ...]:
        """Those of a PEFT folder."""
        return place / CONFIG, place / WEIGHTS

    def best(self, folder: Path) -> Path:
        """A folder."""
        return folder / BEST


@dataclass(frozen=True, eq=False)
class AllWeights:
    """All weights, from float masters: a safetensors file in checkpoints, a GGUF file at the end.

    Attributes:
        config: the model's geometry.
        tokenizer: the `tokenizer.*` pairs of the GGUF file.
        name: its `general.name`.
    """

    config: BitNetConfig
    tokenizer: Mapping[str, MetadataValue]
    name: str
    noun: ClassVar[str] = "model"

    def params(self, training: bool = True) -> Pass:
        """The pass `masters`."""
        return Masters()

    def initial(
        self, config: BitNetConfig, weights: Mapping[str, HostValue]
    ) -> Mapping[str, Array]:
        """The weights themselves."""
        return {name: np.asarray(weights[name]) for name in weight_shapes(config)}

    def save(self, folder: Path, tensors: Mapping[str, Array]) -> None:
        """Write the masters."""
        data = safetensors.numpy.save(
            {name: np.ascontiguousarray(t) for name, t in tensors.items()}
        )
        with atomic_write(folder / MASTERS) as file:
            file.write(data)

    def load(self, folder: Path) -> Mapping[str, Array]:
        """Read the masters."""
        try:
            return safetensors.numpy.load((folder / MASTERS).read_bytes())
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise BitgraphError(f"{folder / MASTERS} cannot be read ({reason})") from None

    def publish(self, place: Path, tensors: Mapping[str, Array]) -> None:
        """Write a GGUF file with ternary matrices and a half-precision embedding."""
        make_folder(place.parent)
        weights = model_weights(tensors)
        save_checkpoint(place, self.config, weights, self.tokenizer, self.name)

    def files(self, place: Path) -> tuple[Path, ...]:
        """The GGUF file."""
        return (place,)

    def best(self, folder: Path) -> Path:
        """A file."""
        return folder / BEST / MODEL
