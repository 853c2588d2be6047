"""Runs a node again that `bitgraph diff-backends --dump` saved; called from Python."""

import click

from ..backends import replay as saved
from .options import make_backend


def replay(folder: str, backend: str = "auto", device: str | None = None) -> None:
    """Print how far each result of a saved node is from the one wanted.

    Args:
        folder: what --dump named.
        backend: as --backend takes it, or "reference" for the op's own NumPy meaning.
        device: as --device takes it.

    Raises:
        BitgraphError: the folder does not hold a saved node, or there is no such backend.
    """
    with click.Context(click.Command("replay")):
        chosen = None if backend == "reference" else make_backend(backend, device)
        for name, error in saved.replay(folder, chosen).items():
            click.echo(f"%{name} is off by {error:.1e} of its largest magnitude")
