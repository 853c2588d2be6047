"""`bitgraph export`, `import` and `merge`: adapters in the formats of others."""

from pathlib import Path

import click

from ..graph.errors import BitgraphError
from ..models.adapters.formats import FORMATS, not_kept, read_adapter, write_adapter
from ..models.adapters.lora import LoraAdapter, check_fits
from ..models.adapters.merging import merge_error
from ..models.bitnet.checkpoint import Checkpoint, load_checkpoint
from ..models.bitnet.config import projection_shapes
from .options import PATH, activation_option, model_option

_out = click.option("-o", "--out", type=PATH, required=True, help="Folder or file to write.")
_force = click.option("--force", is_flag=True, help="Replace what --out already holds.")
_optional_model = click.option(
    "--model",
    type=PATH,
    help="The adapter's model; its architecture and sizes are those of 2B-4T if it is not given.",
)


@click.command()
@click.argument("adapter", type=PATH)
@click.option("--to", type=click.Choice(FORMATS), required=True, help="Format to write.")
@_out
@_optional_model
@_force
def export(adapter: Path, to: str, out: Path, model: Path | None, force: bool) -> None:
    """Write ADAPTER as a PEFT folder, llama.cpp's adapter GGUF or Hesper's lora_weights.bin."""
    checkpoint = _open(model)
    _convert(_load(adapter, checkpoint), to, out, checkpoint, force)


@click.command("import")
@click.argument("file", type=PATH)
@_out
@_optional_model
@_force
def import_(file: Path, out: Path, model: Path | None, force: bool) -> None:
    """Read an adapter FILE of llama.cpp or Hesper and write it as a PEFT folder."""
    checkpoint = _open(model)
    _convert(_load(file, checkpoint), "peft", out, checkpoint, force)


@click.command()
@click.argument("adapter", type=PATH)
@model_option
@activation_option
def merge(adapter: Path, model: Path, activation: str | None) -> None:
    """Refuse to merge ADAPTER into ternary weights, and say how large the error would be."""
    checkpoint = load_checkpoint(model, activation)
    loaded = _load(adapter, checkpoint)
    error = merge_error(loaded, checkpoint.weights)
    if error is None:
        raise BitgraphError(f"{adapter} changes nothing, its B is zero; train it before merging")
    raise BitgraphError(
        f"{adapter} cannot be merged into {model}: its weights are -1, 0 and +1 with one scale; "
        f"rounding W + s B A back to that makes an error {error.absmean:.2f} times as large as the "
        f"adapter's own effect ({error.kept_scale:.2f} times with the scales kept, where "
        f"{error.flipped:.4%} of the weights change), so it would be lost; keep it beside the "
        "model: bitgraph generate --lora"
    )


def _open(model: Path | None) -> Checkpoint | None:
    """A model, for its sizes and names alone; which activation it has does not matter."""
    return load_checkpoint(model, "relu2") if model else None


def _load(path: Path, checkpoint: Checkpoint | None) -> LoraAdapter:
    """An adapter in any format, which must fit the model if there is one."""
    if checkpoint is None:
        return read_adapter(path)
    adapter = read_adapter(path, checkpoint.config)
    check_fits(adapter, projection_shapes(checkpoint.config))
    return adapter


def _convert(
    adapter: LoraAdapter, to: str, out: Path, checkpoint: Checkpoint | None, force: bool
) -> None:
    if out.exists() and not force:
        raise BitgraphError(f"{out} exists; choose another name or add --force to replace it")
    write_adapter(out, adapter, to, checkpoint.config if checkpoint else None)
    parameters = sum(tensor.size for tensor in adapter.tensors.values())
    click.echo(
        f"{out}: {to}, rank {adapter.rank}, alpha {adapter.alpha:g}, {len(adapter.modules)} "
        f"modules, {parameters:,} parameters"
    )
    for lost in not_kept(adapter, to):
        click.echo(f"the format has no place for {lost}")
