"""Opening a BitNet model, in whichever format it lies there."""

from pathlib import Path

from .gguf_checkpoint import load_gguf
from .hf_checkpoint import load_hf
from .weights import Checkpoint

__all__ = ["Checkpoint", "load_checkpoint"]


def load_checkpoint(path: Path, activation: str | None = None) -> Checkpoint:
    """Open a GGUF file or a Hugging Face folder; of the tensors only the records are read.

    Args:
        path: the file or the folder.
        activation: "relu2" or "silu" instead of what the model says. Needed for a GGUF file of
            architecture `bitnet` without the key `bitnet.hidden_activation`.

    Raises:
        BitgraphError: the model is damaged, is no BitNet, or its tensors are not those its
            configuration calls for.
    """
    return load_hf(path, activation) if path.is_dir() else load_gguf(path, activation)
