"""What commands need of a model that is not run: its geometry, from a file or by name."""

from pathlib import Path

import click

from ..graph.errors import BitgraphError
from ..graph.types import DType
from ..models.bitnet.checkpoint import load_checkpoint
from ..models.bitnet.config import BitNetConfig
from ..models.bitnet.forward import embedding_dtype
from ..models.bitnet.presets import PRESETS, preset_config
from .options import PATH

model_or_preset_option = click.option(
    "--model", type=PATH, help="BitNet model, a GGUF file with I2_S weights."
)
preset_option = click.option(
    "--preset", type=click.Choice(list(PRESETS)), help="A known geometry instead."
)


def geometry(
    model: Path | None, preset: str | None, activation: str | None, layers: int | None = None
) -> tuple[BitNetConfig, DType]:
    """The configuration and the element type of the embedding.

    Args:
        model: a file, of which no weights are loaded; or
        preset: the name of a geometry.
        activation: see `load_checkpoint`.
        layers: how many instead of the preset's.

    Raises:
        BitgraphError: both or none of the two are given, or layers with a file.
    """
    if (model is None) == (preset is None):
        raise BitgraphError("give either --model or --preset")
    if preset is not None:
        return preset_config(preset, num_hidden_layers=layers), DType.F16
    if layers is not None:
        raise BitgraphError("--layers changes a --preset; a --model has the layers it has")
    assert model is not None
    checkpoint = load_checkpoint(model, activation)
    return checkpoint.config, embedding_dtype(checkpoint.weights)
