"""Options and helpers that several commands share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..backends.numpy.backend import NumpyBackend
from ..graph.errors import BitgraphError
from ..graph.program import Backend

PATH = click.Path(path_type=Path)

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

model_option = click.option(
    "--model", type=PATH, required=True, help="BitNet model, a GGUF file with I2_S weights."
)
activation_option = click.option(
    "--activation",
    type=click.Choice(["relu2", "silu"]),
    help="Activation of a file that does not say its own (architecture 'bitnet').",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "numpy"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)


def make_backend(name: str) -> Backend:
    """The backend of that name; `auto` takes the best there is."""
    if name in ("auto", "numpy"):
        return NumpyBackend()
    raise BitgraphError(f"there is no backend named '{name}'; choose auto or numpy")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        BitgraphError: it cannot be made or be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(path, os.W_OK | os.X_OK) else "it is read-only"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise BitgraphError(f"the folder {path} cannot be used ({reason}); choose another place")


def from_defaults(options: type[Any], name: str) -> dict[str, Any]:
    """Arguments of `click.option` that take an option's default from a dataclass."""
    return {"default": getattr(options, name), "show_default": True}
