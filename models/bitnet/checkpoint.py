"""Opening a BitNet model, in whichever format it lies there, or the one that comes along."""

from importlib.resources import files
from pathlib import Path
from typing import Final

from .gguf_checkpoint import load_gguf
from .hf_checkpoint import load_hf
from .weights import Checkpoint

__all__ = ["DEMO", "Checkpoint", "load_checkpoint", "located"]

DEMO: Final = Path("demo")
"""What the bundled model is called where a path is asked for."""


def located(path: Path) -> Path:
    """Where a model lies: the path itself, or that of the bundled model if it is `DEMO`.

    A file or folder of that name in the working directory goes before.
    """
    if path != DEMO or path.exists():
        return path
    return Path(str(files(__package__).joinpath("demo", "nano.gguf")))


def load_checkpoint(path: Path, activation: str | None = None) -> Checkpoint:
    """Open a GGUF file or a Hugging Face folder; of the tensors only the records are read.

    Args:
        path: the file or the folder, or `DEMO`.
        activation: "relu2" or "silu" instead of what the model says. Needed for a GGUF file of
            architecture `bitnet` without the key `bitnet.hidden_activation`.

    Raises:
        BitgraphError: the model is damaged, is no BitNet, or its tensors are not those its
            configuration calls for.
    """
    path = located(path)
    return load_hf(path, activation) if path.is_dir() else load_gguf(path, activation)
