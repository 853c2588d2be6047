"""Random models of known geometries, kept in the user's cache folder."""

import hashlib
from pathlib import Path

from ...graph.storage import cache_folder
from ...models.bitnet.config import BitNetConfig
from ...models.bitnet.presets import write_random_model
from ...models.files import make_folder


def random_model(config: BitNetConfig) -> Path:
    """The file of a model with random weights, made if it is not there.

    Speed does not depend on what the weights are. A file, because what is measured begins with one.

    Raises:
        BitgraphError: it cannot be written.
    """
    digest = hashlib.sha256(repr(config).encode()).hexdigest()[:12]
    path = cache_folder() / "models" / f"random-{digest}.gguf"
    if not path.exists():
        make_folder(path.parent)
        write_random_model(path, config, seed=0)
    return path
